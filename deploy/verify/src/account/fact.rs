//! What is known of one record, one row, one copy: what the accounting compares. Sizes are part of the contract, for
//! there is one of these for each row.

/// 128 bits that stand for what a record or row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u64; 2]);

const STATES: [ahash::RandomState; 2] =
    [ahash::RandomState::with_seeds(3, 29, 53, 101), ahash::RandomState::with_seeds(7, 31, 61, 89)];

impl Fingerprint {
    /// Of a row from which no event can be rebuilt: equal to nothing, not even to itself in the accounting.
    pub const NO_EVENT: Self = Self([0, 0]);

    /// Of an event. `canonical_hash` as [`millrace_common::event::canonical_hash`] gives it; `received_ms` is Kafka's
    /// timestamp, negative if there is none.
    pub fn of_event(canonical_hash: &[u8; 32], received_ms: i64) -> Self {
        let (first, rest) = canonical_hash.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        // The constant is odd, so two times of the same event never give the same fingerprint.
        let received = received_ms.max(-1).cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self([word(first), word(&rest[..8]) ^ received])
    }

    /// Of anything, within this process.
    pub fn of(content: impl std::hash::Hash) -> Self {
        Self(STATES.each_ref().map(|state| state.hash_one(&content)))
    }

    /// 32 bits of it.
    pub fn short(self) -> u32 {
        u32::try_from(self.0[0] >> 32).unwrap_or(u32::MAX)
    }
}

/// What a sink holds of a record, or should hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// What came from the source.
    pub content: Fingerprint,
    /// Stands for what was found out about it; zero where that is not compared.
    pub derived: u32,
}

impl Made {
    /// Where nothing was found out, or that is not compared.
    pub fn of(content: Fingerprint) -> Self {
        Self { content, derived: 0 }
    }
}

/// A row of the lake, or a record of the enriched topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowFact {
    pub offset: i64,
    pub content: Fingerprint,
    /// As in [`Made`].
    pub derived: u32,
    /// Of a row: the index of its file, for the examples.
    pub file: u32,
}

/// What the documentation promises.
const _: () = assert!(size_of::<RowFact>() == 32);

impl RowFact {
    pub fn new(offset: i64, made: Made, file: u32) -> Self {
        Self { offset, content: made.content, derived: made.derived, file }
    }

    pub fn made(&self) -> Made {
        Made { content: self.content, derived: self.derived }
    }
}

/// A quarantined record that names this slot as its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineFact {
    /// The source offset that its header names.
    pub offset: i64,
    /// Hash of its key and value.
    pub bytes: u64,
    /// It was set aside because the transform, or the process, failed on it: no verdict that can be recomputed.
    pub failed: bool,
}

/// Whether a record is a client duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicate {
    No,
    Yes,
    /// Its key came before it, but whether the rule looked back that far then, nobody remembers.
    Perhaps,
}

/// What one of the pipeline's transforms makes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Kept { row: Made, enriched: Made },
    Filtered,
    Rejected,
}

/// A record of the raw topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFact {
    pub offset: i64,
    /// Hash of its key and value.
    pub bytes: u64,
    pub duplicate: Duplicate,
    /// By the pipeline's transform, and by those that it had before. None of a record that the transform fails on.
    pub judgements: Vec<Judgement>,
}

/// Why a record is rightly in no sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excuse {
    Duplicate,
    Filtered,
}

impl RawFact {
    pub(super) fn may_be_kept(&self) -> bool {
        self.judgements.iter().any(|judgement| matches!(judgement, Judgement::Kept { .. }))
    }

    pub(super) fn may_be(&self, judgement: Judgement) -> bool {
        self.judgements.contains(&judgement)
    }

    pub(super) fn excuse(&self) -> Option<Excuse> {
        if self.duplicate != Duplicate::No {
            return Some(Excuse::Duplicate);
        }
        self.may_be(Judgement::Filtered).then_some(Excuse::Filtered)
    }

    /// Whether the excuse allows no other outcome.
    pub(super) fn is_surely_left_out(&self) -> bool {
        self.duplicate == Duplicate::Yes || (self.may_be(Judgement::Filtered) && !self.may_be_kept())
    }

    /// One sink has it, so the other must have it.
    pub fn was_kept(&mut self) {
        if self.duplicate == Duplicate::Perhaps {
            self.duplicate = Duplicate::No;
        }
        if self.may_be_kept() {
            self.judgements.retain(|judgement| matches!(judgement, Judgement::Kept { .. }));
        }
    }

    /// One sink left it out, so the other must not have it.
    pub fn was_left_out(&mut self) {
        if self.duplicate == Duplicate::Perhaps {
            self.duplicate = Duplicate::Yes;
        }
        if self.duplicate == Duplicate::No {
            self.judgements.retain(|judgement| !matches!(judgement, Judgement::Kept { .. }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_receipt_is_part_of_the_content() {
        let hash = [5; 32];
        assert_eq!(Fingerprint::of_event(&hash, 7), Fingerprint::of_event(&hash, 7));
        assert_ne!(Fingerprint::of_event(&hash, 7), Fingerprint::of_event(&hash, 8));
        assert_eq!(Fingerprint::of_event(&hash, -1), Fingerprint::of_event(&hash, -2), "no time is no time");
    }
}
