//! Counts of what happened in the worlds.

/// What happened, so that a run without faults can't pass for a good one.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) grants: u64,
    pub(super) revokes: u64,
    pub(super) drops: u64,
    pub(super) restarts: u64,
    pub(super) lost_steps: u64,
    pub(super) lost_stores: u64,
    pub(super) thaws: u64,
    pub(super) stale: u64,
    pub(super) fences: u64,
    pub(super) epochs_behind: u64,
    pub(super) halts: u64,
    pub(super) clock_jumps: u64,
    pub(super) take_overs: u64,
    pub(super) deaths: u64,
    pub(super) added_partitions: u64,
    pub(super) pauses: u64,
    pub(super) resumes: u64,
    pub(super) kills: u64,
    pub(super) changes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, others) in self.fields().into_iter().zip(other.values()) {
            *mine.1 += others;
        }
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 19] {
        [
            ("grants", &mut self.grants),
            ("revokes", &mut self.revokes),
            ("dropped sessions", &mut self.drops),
            ("restarts", &mut self.restarts),
            ("lost steps", &mut self.lost_steps),
            ("lost stores", &mut self.lost_stores),
            ("thaws", &mut self.thaws),
            ("stale messages", &mut self.stale),
            ("fences", &mut self.fences),
            ("epochs behind", &mut self.epochs_behind),
            ("halts", &mut self.halts),
            ("clock jumps", &mut self.clock_jumps),
            ("take-overs", &mut self.take_overs),
            ("grants after deaths", &mut self.deaths),
            ("added partitions", &mut self.added_partitions),
            ("pauses", &mut self.pauses),
            ("resumes", &mut self.resumes),
            ("kills", &mut self.kills),
            ("changed definitions", &mut self.changes),
        ]
    }

    fn values(&self) -> [u64; 19] {
        [
            self.grants,
            self.revokes,
            self.drops,
            self.restarts,
            self.lost_steps,
            self.lost_stores,
            self.thaws,
            self.stale,
            self.fences,
            self.epochs_behind,
            self.halts,
            self.clock_jumps,
            self.take_overs,
            self.deaths,
            self.added_partitions,
            self.pauses,
            self.resumes,
            self.kills,
            self.changes,
        ]
    }

    /// With many seeds each kind of fault must have happened.
    pub(super) fn check_that_faults_happened(&mut self) {
        for (what, count) in self.fields() {
            assert!(*count > 0, "no {what} in all seeds: the simulation tests less than it says");
        }
    }
}
