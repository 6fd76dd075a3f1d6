//! A short word for a set of running slots, so that a heartbeat need not repeat them.

use crate::{Epoch, SlotId};

/// Digest of a set of (slot, epoch) pairs. The order in which pairs come and go does not matter, so both sides keep it
/// up to date by one addition or subtraction a change.
///
/// It tells an honest mistake, not an attack: the pairs' FNV-1a hashes, mixed and added up modulo 2^64. Every version
/// of master and worker must compute the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u64);

impl Digest {
    /// A pair joins the set. It must not be in it.
    pub fn add(&mut self, slot: &SlotId, epoch: Epoch) {
        self.0 = self.0.wrapping_add(pair(slot, epoch));
    }

    /// A pair leaves the set. It must be in it.
    pub fn remove(&mut self, slot: &SlotId, epoch: Epoch) {
        self.0 = self.0.wrapping_sub(pair(slot, epoch));
    }
}

impl<'a> FromIterator<(&'a SlotId, Epoch)> for Digest {
    fn from_iter<I: IntoIterator<Item = (&'a SlotId, Epoch)>>(pairs: I) -> Self {
        let mut digest = Self::default();
        for (slot, epoch) in pairs {
            digest.add(slot, epoch);
        }
        digest
    }
}

fn pair(slot: &SlotId, epoch: Epoch) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    take(slot.pipeline.as_str().as_bytes());
    // No byte of an id.
    take(&[0]);
    take(&slot.topic.to_le_bytes());
    take(&slot.partition.to_le_bytes());
    take(&epoch.0.to_le_bytes());
    mixed(hash)
}

/// The finalizer of SplitMix64: sums of FNV hashes of like texts would collide.
fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(count: i32) -> Vec<SlotId> {
        (0..count).map(|partition| format!("p-1/0-{partition}").parse().expect("slot")).collect()
    }

    #[test]
    fn the_order_does_not_matter_and_what_left_is_gone() {
        let slots = slots(3);
        let forwards: Digest = slots.iter().map(|slot| (slot, Epoch(7))).collect();
        let backwards: Digest = slots.iter().rev().map(|slot| (slot, Epoch(7))).collect();
        assert_eq!(forwards, backwards);
        let mut digest = forwards;
        digest.remove(&slots[1], Epoch(7));
        digest.add(&slots[1], Epoch(8));
        assert_ne!(digest, forwards);
        for (slot, epoch) in slots.iter().zip([7, 8, 7]) {
            digest.remove(slot, Epoch(epoch));
        }
        assert_eq!(digest, Digest::default());
    }

    #[test]
    fn near_sets_differ() {
        let slots = slots(50);
        let mut seen = std::collections::BTreeSet::new();
        for one in &slots {
            for other in &slots {
                for epochs in [(1, 1), (1, 2), (2, 1)] {
                    let pairs = [(one, Epoch(epochs.0)), (other, Epoch(epochs.1))];
                    if one < other {
                        assert!(
                            seen.insert(pairs.into_iter().collect::<Digest>().0),
                            "{one} {other} {epochs:?}"
                        );
                    }
                }
            }
        }
    }

    /// Masters and workers of different builds must agree.
    #[test]
    fn the_value_is_fixed() {
        let slot: SlotId = "clickstream-3f9a2c/0-4".parse().expect("slot");
        assert_eq!([(&slot, Epoch(12))].into_iter().collect::<Digest>(), Digest(0x85be_742a_096a_b97c));
    }
}
