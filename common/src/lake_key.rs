//! Keys of a lake's files: `year=…/month=…/day=…/<pipeline id>-<topic number>-<partition>-<start offset>-<n>.parquet`.
//! Pure, and strict: everything but the lake's own form is none, so that no key that a client sends leaves the day
//! folders, whatever the store makes of `..`, `//` or escapes.

use millrace_types::PipelineId;

/// The value of a folder whose rows have no day that can be trusted.
pub const UNPLACED: &str = "__HIVE_DEFAULT_PARTITION__";
const LONGEST_KEY: usize = 512;

/// The key of a file below a lake's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileKey {
    key: String,
    pipeline: PipelineId,
    /// Number of the source topic, partition, start offset of the flush, number of the file in it.
    numbers: [u64; 4],
}

impl FileKey {
    /// `None` for what is no key of a lake's file.
    pub fn parse(key: &str) -> Option<Self> {
        if key.len() > LONGEST_KEY {
            return None;
        }
        let (folder, name) = key.rsplit_once('/')?;
        if folder_depth(folder)? != 3 {
            return None;
        }
        let mut parts = name.strip_suffix(".parquet")?.rsplitn(5, '-');
        let mut numbers = [0; 4];
        for number in numbers.iter_mut().rev() {
            let part = parts.next()?;
            if part.is_empty() || part.len() > 20 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            // Larger than any number that a lake's key has.
            *number = part.parse().unwrap_or(u64::MAX);
        }
        let pipeline = PipelineId::new(parts.next()?).ok()?;
        Some(Self { key: key.to_owned(), pipeline, numbers })
    }

    pub fn as_str(&self) -> &str {
        &self.key
    }

    pub fn pipeline(&self) -> &PipelineId {
        &self.pipeline
    }

    /// `year=…/month=…/day=…`.
    pub fn folder(&self) -> &str {
        self.key.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Number of the source topic within the pipeline, and the partition.
    pub fn slot(&self) -> (u64, u64) {
        (self.numbers[0], self.numbers[1])
    }

    /// First source offset of the flush that the file belongs to.
    pub fn start_offset(&self) -> u64 {
        self.numbers[2]
    }
}

/// How many of `year=…/month=…/day=…` the folder names, from one to three; `None` if it is none of the lake's.
pub fn folder_depth(folder: &str) -> Option<usize> {
    let mut depth = 0;
    for part in folder.split('/') {
        let (name, digits) = *[("year=", 4), ("month=", 2), ("day=", 2)].get(depth)?;
        let value = part.strip_prefix(name)?;
        let is_number = value.len() == digits && value.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number && value != UNPLACED {
            return None;
        }
        depth += 1;
    }
    Some(depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_where_its_rows_come_from() {
        let key = "year=2024/month=01/day=15/click-stream-3f9a2c-0-5-42-1.parquet";
        let parsed = FileKey::parse(key).expect("a key");
        assert_eq!((parsed.as_str(), parsed.folder()), (key, "year=2024/month=01/day=15"));
        assert_eq!((parsed.pipeline().as_str(), parsed.slot()), ("click-stream-3f9a2c", (0, 5)));
        assert_eq!(parsed.start_offset(), 42);
        for depth in 1..=3 {
            let folder: Vec<&str> = parsed.folder().split('/').take(depth).collect();
            assert_eq!(folder_depth(&folder.join("/")), Some(depth));
        }
        for bad in
            ["", "year=24", "month=01", "year=2024/day=15", "year=2024/", "year=2024/month=01/day=15/x"]
        {
            assert_eq!(folder_depth(bad), None, "{bad}");
        }
    }
}
