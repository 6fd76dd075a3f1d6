//! Memory for bodies: one budget for all requests, taken piece by piece as bytes come in, never for what a client only
//! announces.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A semaphore counts in 32 bits.
const UNIT: usize = 1 << 10;

/// The budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The budget. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    units: Arc<Semaphore>,
    held: Gauge,
}

impl Memory {
    /// `held` shows how many bytes are taken.
    pub(super) fn new(bytes: u64, held: Gauge) -> Self {
        let units = usize::try_from(bytes).unwrap_or(usize::MAX) / UNIT;
        Self { units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))), held }
    }

    /// No room yet, for one request.
    pub(super) fn room(&self) -> Room {
        Room { memory: self.clone(), permits: None, bytes: 0 }
    }
}

/// What a request holds of the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    memory: Memory,
    permits: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Room {
    /// How large it is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the room at least `bytes` large in all.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let wanted = bytes.div_ceil(UNIT);
        let missing = u32::try_from(wanted - self.bytes / UNIT).map_err(|_| NoRoom)?;
        let more = Arc::clone(&self.memory.units).try_acquire_many_owned(missing).map_err(|_| NoRoom)?;
        match self.permits.as_mut() {
            Some(permits) => permits.merge(more),
            None => self.permits = Some(more),
        }
        self.memory.held.inc_by(i64::from(missing) * UNIT as i64);
        self.bytes = wanted * UNIT;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.memory.held.dec_by(i64::try_from(self.bytes).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rooms_together_stay_within_the_budget() {
        let held = Gauge::default();
        let memory = Memory::new(8 << 10, held.clone());
        let (mut first, mut second) = (memory.room(), memory.room());
        assert_eq!(first.grow_to(1), Ok(()));
        assert_eq!(first.grow_to(5000), Ok(()));
        assert_eq!(first.grow_to(10), Ok(()));
        assert_eq!(held.get(), 5 << 10);
        assert_eq!(second.grow_to((3 << 10) + 1), Err(NoRoom));
        assert_eq!(second.grow_to(3 << 10), Ok(()));
        assert_eq!(memory.room().grow_to(1), Err(NoRoom));
        drop((first, second));
        assert_eq!(held.get(), 0);
        assert_eq!(memory.room().grow_to(8 << 10), Ok(()));
    }
}
