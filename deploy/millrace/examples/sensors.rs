//! Millrace with a transform of its own, `sensors`: readings in JSON become rows of device and temperature. What it
//! takes to write one is told in `docs/extending.md`.
//!
//! `cargo run --release -p millrace --example sensors -- worker --master 127.0.0.1:7077`

use std::process::ExitCode;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{Float64Builder, StringBuilder};
use arrow_schema::{ArrowError, DataType};
use millrace_common::event::{Rejection, RejectionCode};
use millrace_common::types::Problem;
use millrace_transform::{
    BuildError, Column, Kind, Options, Output, Registry, RowPlace, SourceRecord, Transform, Values, Wants,
};
use serde_json::{Map, Value};

fn main() -> ExitCode {
    millrace::main(&Registry::with(vec![Box::new(Sensors)]))
}

/// The kind `sensors`. Its one option, `scale`, is `celsius` (the default) or `fahrenheit`.
struct Sensors;

impl Sensors {
    /// What is added to and multiplied with a reading to make it Celsius, and all problems of the options.
    fn read(options: &Map<String, Value>) -> ((f64, f64), Vec<Problem>) {
        let mut options = Options::new(options);
        let accepted = "celsius or fahrenheit";
        let scale = match options.text("scale", accepted).as_deref() {
            None | Some("celsius") => (0.0, 1.0),
            Some("fahrenheit") => (-32.0, 5.0 / 9.0),
            Some(other) => {
                options.problem("scale", other, accepted);
                (0.0, 1.0)
            }
        };
        (scale, options.finish())
    }
}

impl Kind for Sensors {
    fn name(&self) -> &'static str {
        "sensors"
    }

    fn check(&self, options: &Map<String, Value>) -> Vec<Problem> {
        Self::read(options).1
    }

    fn build(&self, options: &Map<String, Value>) -> Result<Box<dyn Transform>, BuildError> {
        Ok(Box::new(SensorRows {
            scale: Self::read(options).0,
            columns: vec![
                Column::new("device", DataType::Utf8, false).values(Values::Repeated).with_statistics(),
                Column::new("temperature", DataType::Float64, false),
            ],
            device: StringBuilder::new(),
            temperature: Float64Builder::new(),
        }))
    }

    /// A device sends many readings under its key: none of them is a duplicate.
    fn default_duplicate_window(&self) -> u64 {
        0
    }
}

struct SensorRows {
    scale: (f64, f64),
    columns: Vec<Column>,
    device: StringBuilder,
    temperature: Float64Builder,
}

impl Transform for SensorRows {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn apply(&mut self, records: &[SourceRecord<'_>], wants: Wants, output: &mut Output) {
        for record in records {
            let (device, reading) = match read(record.value.unwrap_or_default()) {
                Ok(read) => read,
                Err(rejection) => {
                    output.reject(rejection);
                    continue;
                }
            };
            let celsius = (reading + self.scale.0) * self.scale.1;
            let is_kept = match wants.values {
                true => output.keep_with(|bytes| {
                    bytes.extend_from_slice(
                        serde_json::json!({ "device": device, "celsius": celsius }).to_string().as_bytes(),
                    );
                }),
                false => {
                    output.keep();
                    true
                }
            };
            if is_kept && wants.rows {
                self.device.append_value(&device);
                self.temperature.append_value(celsius);
                output.row(RowPlace {
                    offset: record.offset,
                    time_ms: Some(record.timestamp_ms),
                    received_ms: record.timestamp_ms,
                });
            }
        }
    }

    fn take_rows(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        Ok(vec![Arc::new(self.device.finish()), Arc::new(self.temperature.finish())])
    }

    fn memory(&self) -> usize {
        self.device.values_slice().len() + self.temperature.values_slice().len() * 16
    }
}

fn read(json: &[u8]) -> Result<(String, f64), Rejection> {
    let refuse =
        |code, pointer: &str, expected: &str| Rejection::new(code, pointer, format!("expected {expected}"));
    let reading: Value = serde_json::from_slice(json)
        .map_err(|error| Rejection::new(RejectionCode::NotJson, "", error.to_string()))?;
    let device = reading["device"].as_str();
    let device = device.ok_or_else(|| refuse(RejectionCode::WrongKind, "/device", "a string"))?;
    let temperature = reading["temperature"].as_f64();
    let temperature =
        temperature.ok_or_else(|| refuse(RejectionCode::WrongKind, "/temperature", "a number"))?;
    Ok((device.to_owned(), temperature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::types::TransformDefinition;
    use millrace_transform::Verdict;

    #[test]
    fn readings_become_rows_and_the_rest_is_rejected() {
        let mut definition = TransformDefinition { kind: "sensors".into(), options: Map::new() };
        definition.options.insert("scale".into(), "fahrenheit".into());
        let registry = Registry::with(vec![Box::new(Sensors)]);
        assert_eq!(registry.check(&definition), []);
        let mut transform = registry.build(&definition).expect("built");
        let values = [&br#"{"device":"roof","temperature":212}"#[..], b"{}"];
        let records = values.map(|value| SourceRecord { value: Some(value), ..SourceRecord::default() });
        let mut output = Output::default();
        transform.apply(&records, Wants { rows: true, values: true }, &mut output);
        let [Verdict::Kept(kept), Verdict::Rejected(rejection)] = output.verdicts() else {
            panic!("{:?}", output.verdicts())
        };
        assert_eq!(output.value(kept), Some(&br#"{"celsius":100.0,"device":"roof"}"#[..]));
        assert_eq!(rejection.pointer, "/device");
        assert_eq!(transform.take_rows().expect("rows")[0].len(), 1);
        definition.options.insert("scale".into(), "kelvin".into());
        assert_eq!(registry.check(&definition)[0].key, "transform.scale");
    }
}
