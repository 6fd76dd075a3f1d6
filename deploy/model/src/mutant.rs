//! Protocols with one rule undone. Each must break a rule of [`crate::rules`], or the model would show nothing.

/// A protocol with one rule undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    ReadBeforeFence,
    UnstableRead,
    OwnTransactionalId,
    EpochUnchecked,
    NoClaim,
    ListAfterClaim,
    CollectUnchecked,
    FinalNames,
    PredictableKeys,
    NoCompareAfterCopy,
    CommitBeforePublished,
    ReuseAfterDoubt,
    DoubtMeansFailed,
    DoubtMeansCommitted,
    ExternalCursor,
    QuarantineOutside,
    RejectedNotRecorded,
    RebuiltAfterNewBuild,
    DefinitionAnywhere,
    LakePassesTopic,
    LostRecordIsNew,
    HaltUnproven,
}

impl Mutant {
    pub const ALL: [Self; 22] = [
        Self::ReadBeforeFence,
        Self::UnstableRead,
        Self::OwnTransactionalId,
        Self::EpochUnchecked,
        Self::NoClaim,
        Self::ListAfterClaim,
        Self::CollectUnchecked,
        Self::FinalNames,
        Self::PredictableKeys,
        Self::NoCompareAfterCopy,
        Self::CommitBeforePublished,
        Self::ReuseAfterDoubt,
        Self::DoubtMeansFailed,
        Self::DoubtMeansCommitted,
        Self::ExternalCursor,
        Self::QuarantineOutside,
        Self::RejectedNotRecorded,
        Self::RebuiltAfterNewBuild,
        Self::DefinitionAnywhere,
        Self::LakePassesTopic,
        Self::LostRecordIsNew,
        Self::HaltUnproven,
    ];

    /// Name on the command line, the rule undone, and the bound in which it shows.
    pub fn about(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::ReadBeforeFence => ("read-before-fence", "the record is read before the predecessor is fenced", "freeze"),
            Self::UnstableRead => ("unstable-read", "the record is read without asking for a stable offset", "freeze"),
            Self::OwnTransactionalId => {
                ("own-transactional-id", "each grant has a transactional id of its own, which fences nobody", "freeze")
            }
            Self::EpochUnchecked => ("epoch-unchecked", "an owner goes on though the record holds a higher epoch", "kafka"),
            Self::NoClaim => ("no-claim", "staged objects are deleted without a claim", "freeze"),
            Self::ListAfterClaim => ("list-after-claim", "staged objects are listed after the claim", "freeze"),
            Self::CollectUnchecked => {
                ("collect-unchecked", "staged objects are deleted without looking what the record names", "freeze")
            }
            Self::FinalNames => ("final-names", "files are uploaded under their final names, before the commit", "freeze"),
            Self::PredictableKeys => ("predictable-keys", "staged keys follow from the sequence", "freeze"),
            Self::NoCompareAfterCopy => ("no-compare", "a copy that answers 200 counts as done", "store"),
            Self::CommitBeforePublished => {
                ("commit-before-published", "a flush is committed while the one before it is not published", "freeze")
            }
            Self::ReuseAfterDoubt => ("reuse-after-doubt", "a producer goes on after a doubt", "kafka"),
            Self::DoubtMeansFailed => {
                ("doubt-means-failed", "after a doubt the record is not read again: not committed, it is said", "kafka")
            }
            Self::DoubtMeansCommitted => ("doubt-means-committed", "a lost answer counts as a commit", "kafka"),
            Self::ExternalCursor => ("external-cursor", "the cursor is kept elsewhere, beside the transaction", "freeze"),
            Self::QuarantineOutside => ("quarantine-outside", "rejected records are produced outside the transaction", "build"),
            Self::RejectedNotRecorded => ("rejected-not-recorded", "the record does not hold what was rejected", "build"),
            Self::RebuiltAfterNewBuild => {
                ("rebuilt", "a successor publishes what its build makes of the range, not the manifest", "files")
            }
            Self::DefinitionAnywhere => ("definition-anywhere", "the transform changes while the cursors differ", "definition"),
            Self::LakePassesTopic => ("lake-passes-topic", "a flush is committed without what the topic sink waits for", "freeze"),
            Self::LostRecordIsNew => ("lost-record-is-new", "a slot without record begins anew, though it was opened", "record-lost"),
            Self::HaltUnproven => ("halt-unproven", "who misses a manifest halts without proof of ownership", "freeze"),
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.about().0 == name)
    }
}
