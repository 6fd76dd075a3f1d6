//! How much topics take on the brokers' disks. librdkafka has no question for that, so brokers are asked in Kafka's own
//! protocol: DescribeLogDirs (key 35), version 1, which brokers since 2.0 answer. Without TLS and SASL, as every client
//! of Kafka here.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Length, key, version, correlation, client's name, and no list of topics: all of them.
const REQUEST: &[u8] = b"\0\0\0\x1b\0\x23\0\x01\0\0\0\x01\0\x0dmillrace-page\xff\xff\xff\xff";
/// Of one broker's answer.
const DEADLINE: Duration = Duration::from_secs(3);
/// A partition takes some 30 bytes: half a million of them.
const LARGEST_ANSWER: usize = 16 << 20;
/// Brokers that are asked.
const MOST_BROKERS: usize = 100;

/// Bytes by topic and partition.
pub(super) type Sizes = BTreeMap<(String, i32), u64>;

/// Sizes of one copy of each partition: the largest that any of `brokers` has. `None` when one of them can't be asked:
/// a sum without it would be no size.
pub(super) async fn of_partitions(brokers: &[(String, u16)]) -> Option<Sizes> {
    if brokers.is_empty() || brokers.len() > MOST_BROKERS {
        return None;
    }
    let mut sizes = Sizes::new();
    for (host, port) in brokers {
        let answer = tokio::time::timeout(DEADLINE, ask(host, *port)).await.ok()?.ok()?;
        for (place, bytes) in read(&answer)? {
            let size = sizes.entry(place).or_default();
            *size = bytes.max(*size);
        }
    }
    Some(sizes)
}

async fn ask(host: &str, port: u16) -> std::io::Result<Vec<u8>> {
    let mut broker = TcpStream::connect((host, port)).await?;
    broker.write_all(REQUEST).await?;
    let length = usize::try_from(broker.read_i32().await?).unwrap_or(usize::MAX);
    if length > LARGEST_ANSWER {
        return Err(std::io::Error::other("the answer is longer than any answer"));
    }
    let mut answer = vec![0; length];
    broker.read_exact(&mut answer).await?;
    Ok(answer)
}

/// What is left of an answer.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn i16(&mut self) -> Option<i16> {
        Some(i16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn i32(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.i16()?).ok()?;
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }
}

/// The partitions of an answer; `None` if it is none, or says that a folder can't be read.
fn read(answer: &[u8]) -> Option<Vec<((String, i32), u64)>> {
    let mut rest = Rest(answer);
    let mut found = Vec::new();
    let (_correlation, _throttled) = (rest.i32()?, rest.i32()?);
    for _ in 0..rest.i32()? {
        let error = rest.i16()?;
        let _folder = rest.text()?;
        if error != 0 {
            return None;
        }
        for _ in 0..rest.i32()? {
            let topic = rest.text()?;
            for _ in 0..rest.i32()? {
                let (partition, bytes, _behind) = (rest.i32()?, rest.i64()?, rest.i64()?);
                let is_future = rest.take(1)?[0] != 0;
                // A copy that is on its way to another folder.
                if !is_future {
                    found.push(((topic.clone(), partition), u64::try_from(bytes).ok()?));
                }
            }
        }
    }
    rest.0.is_empty().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&i16::try_from(text.len()).expect("short").to_be_bytes()[..], text.as_bytes()].concat()
    }

    fn answer(error: i16) -> Vec<u8> {
        let partition = |number: i32, bytes: i64, is_future: u8| {
            [&number.to_be_bytes()[..], &bytes.to_be_bytes(), &0_i64.to_be_bytes(), &[is_future]].concat()
        };
        [
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1][..],
            &error.to_be_bytes(),
            &text("/data"),
            &1_i32.to_be_bytes(),
            &text("raw"),
            &3_i32.to_be_bytes(),
            &partition(0, 1_000, 0),
            &partition(1, 5, 0),
            &partition(1, 3, 1),
        ]
        .concat()
    }

    #[test]
    fn partitions_are_read_and_copies_on_their_way_are_not() {
        let found = read(&answer(0)).expect("an answer");
        assert_eq!(found, [(("raw".to_owned(), 0), 1_000), (("raw".to_owned(), 1), 5)]);
        assert_eq!(read(&answer(56)), None, "a folder that can't be read has no size");
    }

    #[test]
    fn an_answer_that_is_cut_anywhere_is_none() {
        let whole = answer(0);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length}");
        }
        assert_eq!(read(&[whole, vec![0]].concat()), None);
        let many = [&[0; 8][..], &i32::MAX.to_be_bytes()].concat();
        assert_eq!(read(&many), None);
    }
}
