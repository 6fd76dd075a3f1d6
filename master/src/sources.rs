//! What answers to people are made from, over HTTP and gRPC. Cheap to clone.

use crate::discovery::Troubles;
use crate::handle::Handle;
use crate::health::Health;
use crate::metrics::Counters;
use crate::snapshot::Addresses;
use crate::unowned::UnownedOffsets;
use crate::vitals::Vitals;

#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) handle: Handle,
    pub(crate) addresses: Addresses,
    pub(crate) health: Health,
    pub(crate) unowned: UnownedOffsets,
    pub(crate) troubles: Troubles,
    pub(crate) counters: Counters,
    pub(crate) vitals: Vitals,
}
