//! Millrace with a transform that can't stand some records: for the tests of what becomes of those.

use std::process::ExitCode;

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;
use millrace_common::event::{Rejection, RejectionCode};
use millrace_transform::raw::Raw;
use millrace_transform::{BuildError, Column, Kind, Output, Registry, SourceRecord, Transform, Wants};
use millrace_types::Problem;
use serde_json::{Map, Value};

fn main() -> ExitCode {
    millrace::main(&Registry::with(vec![Box::new(Fragile)]))
}

/// The kind `fragile`: as `raw`, but the value `abort` ends the process, the value `panic` panics, and `reject` is
/// rejected.
struct Fragile;

impl Kind for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }

    fn check(&self, options: &Map<String, Value>) -> Vec<Problem> {
        Raw.check(options)
    }

    fn build(&self, options: &Map<String, Value>) -> Result<Box<dyn Transform>, BuildError> {
        Ok(Box::new(FragileRows(Raw.build(options)?)))
    }

    fn default_duplicate_window(&self) -> u64 {
        0
    }
}

struct FragileRows(Box<dyn Transform>);

impl Transform for FragileRows {
    fn columns(&self) -> &[Column] {
        self.0.columns()
    }

    fn reads_headers(&self) -> bool {
        self.0.reads_headers()
    }

    fn apply(&mut self, records: &[SourceRecord<'_>], wants: Wants, output: &mut Output) {
        for record in records {
            match record.value {
                Some(b"abort") => std::process::abort(),
                Some(b"panic") => panic!("a record that the transform can't stand"),
                Some(b"reject") => {
                    output.reject(Rejection::new(RejectionCode::WrongKind, "", "it asks for it"));
                }
                _ => self.0.apply(std::slice::from_ref(record), wants, output),
            }
        }
    }

    fn take_rows(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.0.take_rows()
    }

    fn memory(&self) -> usize {
        self.0.memory()
    }
}
