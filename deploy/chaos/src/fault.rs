//! The faults that can be asked for: their names, what they do, and how many of each a schedule holds. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A fault that is done to the running cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    WorkerKill,
    WorkerFreeze,
}

impl Fault {
    /// Every fault, in the order in which they are listed.
    pub const ALL: [Self; 2] = [Self::WorkerKill, Self::WorkerFreeze];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkerKill => "worker-kill",
            Self::WorkerFreeze => "worker-freeze",
        }
    }

    /// What is done, in a line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::WorkerKill => "SIGKILL to a worker that runs slots",
            Self::WorkerFreeze => {
                "SIGSTOP to a worker that runs slots, SIGCONT after others have taken them over"
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is no fault: expected some of {names}")
        })
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Which faults a run draws from, and how many of each in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix(Vec<(Fault, u32)>);

impl Mix {
    /// Every fault once.
    pub fn all() -> Self {
        Self(Fault::ALL.into_iter().map(|fault| (fault, 1)).collect())
    }

    /// Each fault as often as it comes in a round.
    pub(crate) fn round(&self) -> Vec<Fault> {
        self.0
            .iter()
            .flat_map(|(fault, count)| std::iter::repeat_n(*fault, usize::try_from(*count).unwrap_or(0)))
            .collect()
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.iter().map(|(fault, count)| match count {
            1 => fault.to_string(),
            count => format!("{fault}={count}"),
        });
        f.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Mix {
    type Err = String;

    /// `worker-kill=10,worker-freeze`: ten kills to each freeze.
    fn from_str(text: &str) -> Result<Self, String> {
        const MOST: u32 = 1_000;
        let mut mix: Vec<(Fault, u32)> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, count) = part.split_once('=').unwrap_or((part, "1"));
            let fault = name.parse()?;
            let count = count
                .parse()
                .ok()
                .filter(|count| (1..=MOST).contains(count))
                .ok_or_else(|| format!("{part:?}: expected a number from 1 to {MOST} after ="))?;
            if mix.iter().any(|(known, _)| *known == fault) {
                return Err(format!("{fault} stands there twice: expected each fault once, like {fault}=2"));
            }
            mix.push((fault, count));
        }
        Ok(Self(mix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let all = Fault::ALL.map(Fault::name).join(",");
        assert_eq!(all.parse::<Mix>(), Ok(Mix::all()));
        assert_eq!(Mix::all().to_string(), all);
        let mix: Mix = "worker-kill=3,worker-freeze".parse().expect("a mix");
        assert_eq!(mix.round().len(), 4);
        assert_eq!(mix.to_string(), "worker-kill=3,worker-freeze");
    }

    #[test]
    fn what_is_no_mix_is_refused_with_what_is_expected() {
        for (text, expected) in [
            ("worker-kil", "worker-kill, worker-freeze"),
            ("worker-kill=0", "from 1 to 1000"),
            ("worker-kill,worker-kill", "each fault once"),
            ("", "is no fault"),
        ] {
            let message = text.parse::<Mix>().expect_err(text);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }
}
