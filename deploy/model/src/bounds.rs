//! The bounds within which the protocol is checked: what the pipeline has, and which faults may happen how often.

use crate::state::{Faults, Offsets};

/// A bound.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    pub name: &'static str,
    pub what: &'static str,
    pub workers: usize,
    /// Source records.
    pub records: u8,
    /// The pipeline has a topic sink beside the lake.
    pub has_topic: bool,
    /// What each build rejects: the old one, the new one.
    pub(crate) rejects: [Offsets; 2],
    pub(crate) faults: Faults,
    /// Small enough for every test run.
    pub in_tests: bool,
}

const NO_FAULTS: Faults = Faults {
    crashes: 0,
    moves: 0,
    kafka: 0,
    store: 0,
    expiries: 0,
    builds: 0,
    definitions: 0,
    record_losses: 0,
    forgets: 0,
};

const BASE: Bound = Bound {
    name: "",
    what: "",
    workers: 2,
    records: 2,
    has_topic: true,
    rejects: [0, 0],
    faults: NO_FAULTS,
    in_tests: true,
};

/// All of them, those of the tests first.
pub const BOUNDS: [Bound; 18] = [
    Bound {
        name: "freeze",
        what: "a crash, and an owner that is frozen and resumed",
        faults: Faults { crashes: 1, moves: 1, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "store",
        what: "a frozen owner, and a lost or late request to the store",
        faults: Faults { moves: 1, store: 1, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "build",
        what: "a crash, a frozen owner, and a new build that rejects other records and makes other files",
        rejects: [0b10, 0b01],
        faults: Faults { crashes: 1, moves: 1, builds: 1, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "files",
        what: "a crash, a frozen owner, and a new build that makes other files of the same rows",
        faults: Faults { crashes: 1, moves: 1, builds: 1, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "definition",
        what: "a crash, a frozen owner, and a changed transform",
        faults: Faults { crashes: 1, moves: 1, definitions: 1, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "kafka",
        what: "a frozen owner, and two answers lost or requests late to Kafka",
        faults: Faults { moves: 1, kafka: 2, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "expiry",
        what: "a frozen owner, a transaction time-out, and a lost or late request to Kafka",
        faults: Faults { moves: 1, kafka: 1, expiries: 1, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "lake-only",
        what: "a pipeline without topic sink: a crash, a frozen owner, a new build",
        has_topic: false,
        rejects: [0b10, 0b01],
        faults: Faults { crashes: 1, moves: 1, builds: 1, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "record-lost",
        what: "a crash, a frozen owner, and Kafka loses the committed offset",
        faults: Faults { crashes: 1, moves: 1, record_losses: 1, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "forgetful",
        what: "a crash, a frozen owner, and the master loses its store",
        faults: Faults { crashes: 1, moves: 1, forgets: 1, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "three",
        what: "three workers, two frozen owners",
        workers: 3,
        records: 1,
        faults: Faults { moves: 2, ..NO_FAULTS },
        ..BASE
    },
    Bound {
        name: "three-long",
        what: "three workers, two frozen owners",
        workers: 3,
        faults: Faults { moves: 2, ..NO_FAULTS },
        in_tests: false,
        ..BASE
    },
    Bound {
        name: "store-long",
        what: "a crash, a frozen owner, and a lost or late request to the store",
        faults: Faults { crashes: 1, moves: 1, store: 1, ..NO_FAULTS },
        in_tests: false,
        ..BASE
    },
    Bound {
        name: "expiry-long",
        what: "a crash, a frozen owner, a transaction time-out, and a lost or late request to Kafka",
        faults: Faults { crashes: 1, moves: 1, kafka: 1, expiries: 1, ..NO_FAULTS },
        in_tests: false,
        ..BASE
    },
    Bound {
        name: "lake-long",
        what: "a pipeline without topic sink: a crash, a frozen owner, a new build, one fault each of Kafka's and the store's",
        has_topic: false,
        rejects: [0b10, 0b01],
        faults: Faults { crashes: 1, moves: 1, kafka: 1, store: 1, builds: 1, ..NO_FAULTS },
        in_tests: false,
        ..BASE
    },
    Bound {
        name: "records",
        what: "a crash, a frozen owner, and a new build that rejects other records and makes other files",
        records: 3,
        rejects: [0b010, 0b100],
        faults: Faults { crashes: 1, moves: 1, builds: 1, ..NO_FAULTS },
        in_tests: false,
        ..BASE
    },
    Bound {
        name: "mixed",
        what: "a frozen owner, a new build, and one fault each of Kafka's and the store's",
        rejects: [0b10, 0b01],
        faults: Faults { moves: 1, kafka: 1, store: 1, builds: 1, ..NO_FAULTS },
        in_tests: false,
        ..BASE
    },
    Bound {
        name: "twice",
        what: "a crash, two frozen owners, and a lost or late request to Kafka",
        faults: Faults { crashes: 1, moves: 2, kafka: 1, ..NO_FAULTS },
        in_tests: false,
        ..BASE
    },
];

/// The bound of this name.
pub fn bound(name: &str) -> Option<Bound> {
    BOUNDS.into_iter().find(|bound| bound.name == name)
}
