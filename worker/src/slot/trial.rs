//! Finding the record that a process dies of: records are tried in a process of their own, one after the other, which
//! says after each that it is still there. What kills that process twice is set aside; nothing else is.
//!
//! The child is this same program (`millrace try-records`), so that it knows the same transforms.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::event::Rejection;
use millrace_common::types::TransformDefinition;
use millrace_transform::{Output, Registry, SourceRecord, Wants};

use tracing::warn;

use super::intake::failure;
use super::{Exit, Slot};
use crate::compute::blocking;
use crate::kafka::Batch;

/// Said by the child when its transform is built; no record has this offset.
const READY: i64 = i64::MIN;

/// How often the child looks whether its worker still lives.
const PARENT_CHECK: Duration = Duration::from_secs(1);

/// The program that tries records.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

impl Trial {
    /// This very program.
    pub(crate) fn of_this_program() -> io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, arguments: vec!["try-records".into()] })
    }

    /// The offsets among the records of `batch` from number `first` on that the transform can't stand. Blocks.
    ///
    /// # Errors
    /// When the child can't be started or does not begin: then nothing is known of any record.
    pub(super) fn failing(
        &self,
        definition: &TransformDefinition,
        batch: &Batch,
        first: usize,
    ) -> io::Result<BTreeMap<i64, Rejection>> {
        let records: Vec<_> = batch.records(first, true).collect();
        let mut failing = BTreeMap::new();
        let (mut next, mut failed_before) = (0, None);
        while next < records.len() {
            let (survived, end) = self.run(definition, &records[next..])?;
            next += survived;
            if next == records.len() {
                break;
            }
            // Somebody may have killed the child for another reason: the record gets a second chance.
            if failed_before == Some(next) {
                let message = format!("the transform's process died of the record twice: {end}");
                failing.insert(records[next].offset, failure(message));
                next += 1;
            } else {
                failed_before = Some(next);
            }
        }
        Ok(failing)
    }

    /// How many records a new child survived, and how it ended.
    fn run(
        &self,
        definition: &TransformDefinition,
        records: &[SourceRecord<'_>],
    ) -> io::Result<(usize, String)> {
        let mut child = OwnChild(
            Command::new(&self.program)
                .args(&self.arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?,
        );
        let (Some(input), Some(output)) = (child.0.stdin.take(), child.0.stdout.take()) else {
            return Err(io::Error::other("the child has no pipes"));
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || write(input, definition, records));
            let mut output = BufReader::new(output);
            if read_offset(&mut output)? != Some(READY) {
                let status = child.0.wait()?;
                return Err(io::Error::other(format!("{} did not begin: {status}", self.program.display())));
            }
            let mut survived = 0;
            while let Some(offset) = read_offset(&mut output)? {
                if records.get(survived).map(|record| record.offset) != Some(offset) {
                    return Err(io::Error::other(format!("the child answered for offset {offset}")));
                }
                survived += 1;
            }
            let status = child.0.wait()?;
            // A child that died leaves a broken pipe: what counts is how far it came.
            drop(writer.join());
            Ok((survived, status.to_string()))
        })
    }
}

/// Tries the records of `batch` from number `first` on; gives it back with those that the transform can't stand.
pub(super) async fn try_batch(
    slot: &Slot,
    definition: &TransformDefinition,
    batch: Batch,
    first: usize,
) -> Result<(Batch, BTreeMap<i64, Rejection>), Exit> {
    let batch = Arc::new(Mutex::new(batch));
    let attempt = || {
        let (trial, definition, batch) = (slot.trial.clone(), definition.clone(), Arc::clone(&batch));
        async move {
            blocking(move || {
                let batch = batch.lock().unwrap_or_else(PoisonError::into_inner);
                trial.failing(&definition, &batch, first)
            })
            .await
        }
    };
    let failing = slot.persist("trying records in a process of their own", attempt).await?;
    for (offset, rejection) in &failing {
        warn!(slot = %slot.id, offset, reason = rejection.message, "record set aside");
    }
    let batch = Arc::into_inner(batch).expect("every try has ended");
    Ok((batch.into_inner().unwrap_or_else(PoisonError::into_inner), failing))
}

/// A child that does not outlive its use.
struct OwnChild(Child);

impl Drop for OwnChild {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_offset(input: &mut impl Read) -> io::Result<Option<i64>> {
    let mut bytes = [0; 8];
    match input.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(i64::from_le_bytes(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(
    input: impl Write,
    definition: &TransformDefinition,
    records: &[SourceRecord<'_>],
) -> io::Result<()> {
    let mut input = BufWriter::new(input);
    write_part(&mut input, Some(&serde_json::to_vec(definition)?))?;
    for record in records {
        input.write_all(&record.offset.to_le_bytes())?;
        input.write_all(&record.timestamp_ms.to_le_bytes())?;
        write_part(&mut input, record.key)?;
        write_part(&mut input, record.value)?;
        input.write_all(&(record.headers.len() as u64).to_le_bytes())?;
        for (name, value) in &record.headers {
            write_part(&mut input, Some(name.as_bytes()))?;
            write_part(&mut input, *value)?;
        }
    }
    input.flush()
}

/// A length and the bytes; the length -1 stands for none.
fn write_part(output: &mut impl Write, part: Option<&[u8]>) -> io::Result<()> {
    let length = part.map_or(Ok(-1), |part| i64::try_from(part.len())).map_err(io::Error::other)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(part.unwrap_or_default())
}

fn read_part(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let length = read_offset(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let Ok(length) = u64::try_from(length) else { return Ok(None) };
    let mut part = Vec::new();
    input.take(length).read_to_end(&mut part)?;
    if part.len() as u64 == length { Ok(Some(part)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The child's side: tries each record of the standard input until it ends, and says so for each on the standard
/// output. It may die.
///
/// # Errors
/// A transform that can't be built, or pipes that don't hold what a worker writes.
pub fn try_records(transforms: &Registry) -> io::Result<()> {
    // A record that runs for ever must not outlive the worker.
    let worker = std::os::unix::process::parent_id();
    std::thread::Builder::new().name("parent".into()).spawn(move || {
        while std::os::unix::process::parent_id() == worker {
            std::thread::sleep(PARENT_CHECK);
        }
        std::process::exit(1);
    })?;
    let mut input = BufReader::new(io::stdin().lock());
    let mut output = io::stdout().lock();
    let definition = read_part(&mut input)?.unwrap_or_default();
    let definition: TransformDefinition = serde_json::from_slice(&definition)?;
    let mut transform = transforms.build(&definition).map_err(io::Error::other)?;
    let mut say = |offset: i64| output.write_all(&offset.to_le_bytes()).and_then(|()| output.flush());
    say(READY)?;
    while let Some(offset) = read_offset(&mut input)? {
        let timestamp_ms = read_offset(&mut input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (key, value) = (read_part(&mut input)?, read_part(&mut input)?);
        let count = read_offset(&mut input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let headers = (0..count)
            .map(|_| {
                let name = String::from_utf8(read_part(&mut input)?.unwrap_or_default());
                Ok((name.map_err(io::Error::other)?, read_part(&mut input)?))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let record = SourceRecord {
            offset,
            timestamp_ms,
            key: key.as_deref(),
            value: value.as_deref(),
            headers: headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect(),
        };
        transform.apply(&[record], Wants { rows: true, values: true }, &mut Output::default());
        transform.take_rows().map_err(io::Error::other)?;
        say(offset)?;
    }
    Ok(())
}
