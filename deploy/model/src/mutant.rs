//! Protocols with one rule undone. Each must break a rule of [`crate::rules`], or the model would show nothing.

use crate::rules::Rule;

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
    Unverified,
}

/// What a mutant is.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// On the command line.
    pub name: &'static str,
    /// The rule that it undoes.
    pub undone: &'static str,
    /// Name of the bound in which it shows.
    pub bound: &'static str,
    /// The rule that it breaks there, among others.
    pub harm: Rule,
}

impl Mutant {
    pub const ALL: [Self; 23] = [
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
        Self::Unverified,
    ];

    /// What it is.
    pub fn about(self) -> About {
        let (name, undone, bound, harm) = match self {
            Self::ReadBeforeFence => (
                "read-before-fence",
                "the record is read before the predecessor is fenced",
                "freeze",
                Rule::TopicOnce,
            ),
            Self::UnstableRead => (
                "unstable-read",
                "the record is read without asking for a stable offset",
                "freeze",
                Rule::TopicOnce,
            ),
            Self::OwnTransactionalId => (
                "own-transactional-id",
                "each grant has a transactional id of its own, which fences nobody",
                "freeze",
                Rule::TopicOnce,
            ),
            Self::EpochUnchecked => (
                "epoch-unchecked",
                "an owner goes on though the record holds a higher epoch",
                "kafka",
                Rule::CursorsOnlyRise,
            ),
            Self::NoClaim => {
                ("no-claim", "staged objects are deleted without a claim", "freeze", Rule::NothingLost)
            }
            Self::ListAfterClaim => {
                ("list-after-claim", "staged objects are listed after the claim", "freeze", Rule::NothingLost)
            }
            Self::CollectUnchecked => (
                "collect-unchecked",
                "staged objects are deleted without looking what the record names",
                "freeze",
                Rule::NothingLost,
            ),
            Self::FinalNames => (
                "final-names",
                "files are uploaded under their final names, before the commit",
                "freeze",
                Rule::LakeOnce,
            ),
            Self::PredictableKeys => {
                ("predictable-keys", "staged keys follow from the sequence", "files", Rule::LakeOnce)
            }
            Self::NoCompareAfterCopy => {
                ("no-compare", "a copy that answers 200 counts as done", "store", Rule::NothingLost)
            }
            Self::CommitBeforePublished => (
                "commit-before-published",
                "a flush is committed while the one before it is not published",
                "freeze",
                Rule::NothingLost,
            ),
            Self::ReuseAfterDoubt => {
                ("reuse-after-doubt", "a producer goes on after a doubt", "kafka", Rule::TopicOnce)
            }
            Self::DoubtMeansFailed => (
                "doubt-means-failed",
                "after a doubt the record is not read again: not committed, it is said",
                "kafka",
                Rule::TopicOnce,
            ),
            Self::DoubtMeansCommitted => {
                ("doubt-means-committed", "a lost answer counts as a commit", "kafka", Rule::NotBeforeCommit)
            }
            Self::ExternalCursor => (
                "external-cursor",
                "the cursor is kept elsewhere, beside the transaction",
                "freeze",
                Rule::TopicOnce,
            ),
            Self::QuarantineOutside => (
                "quarantine-outside",
                "rejected records are produced outside the transaction",
                "build",
                Rule::QuarantineOnce,
            ),
            Self::RejectedNotRecorded => (
                "rejected-not-recorded",
                "the record does not hold what was rejected",
                "build",
                Rule::OneVerdict,
            ),
            Self::RebuiltAfterNewBuild => (
                "rebuilt",
                "a successor publishes what its build makes of the range, not the manifest",
                "files",
                Rule::LakeOnce,
            ),
            Self::DefinitionAnywhere => (
                "definition-anywhere",
                "the transform changes while the cursors differ",
                "definition",
                Rule::NothingLost,
            ),
            Self::LakePassesTopic => (
                "lake-passes-topic",
                "a flush is committed without what the topic sink waits for",
                "build",
                Rule::OneVerdict,
            ),
            Self::LostRecordIsNew => (
                "lost-record-is-new",
                "a slot without record begins anew, though it was opened",
                "record-lost",
                Rule::TopicOnce,
            ),
            Self::Unverified => (
                "unverified",
                "a broker that does not verify transactions takes a late TxnOffsetCommit of none",
                "kafka",
                Rule::CanFinish,
            ),
            Self::HaltUnproven => (
                "halt-unproven",
                "who misses a manifest halts without proof of ownership",
                "freeze",
                Rule::NoHaltWithoutCause,
            ),
        };
        About { name, undone, bound, harm }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.about().name == name)
    }
}
