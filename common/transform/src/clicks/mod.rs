//! The transform `clicks`: click events in JSON become typed rows and enriched events.
//!
//! An event that the collector would refuse is rejected with the same reason. The options filter by type, drop or
//! rename members, and say what is found out about each event.

mod derived;
mod enriched;
mod options;
mod rows;
#[cfg(test)]
mod tests;

use std::path::Path;

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;
use millrace_common::event::{Event, IP, PAGE, REFERRER, Rejection, RejectionCode, USER_AGENT, check};
use millrace_common::types::Problem;
use serde_json::{Map, Value};

use self::derived::Derived;
use self::enriched::Writer;
use self::options::{ClicksOptions, Enricher};
use self::rows::Rows;
use crate::enrich::{DatabaseError, Databases, Enrichers, Said, Settings};
use crate::{BuildError, Column, Kind, Output, RowPlace, SourceRecord, Transform, Wants};

/// The kind `clicks`.
#[derive(Debug, Default)]
pub struct Clicks {
    databases: Databases,
}

impl Kind for Clicks {
    fn name(&self) -> &'static str {
        "clicks"
    }

    fn check(&self, options: &Map<String, Value>) -> Vec<Problem> {
        options::read(options).1
    }

    fn build(&self, options: &Map<String, Value>) -> Result<Box<dyn Transform>, BuildError> {
        let (options, _) = options::read(options);
        let enrichers = self
            .enrichers(&options)
            .map_err(|error| BuildError { kind: self.name().to_owned(), reason: error.to_string() })?;
        Ok(Box::new(ClicksTransform {
            columns: rows::columns(&options),
            rows: Rows::new(),
            writer: Writer::default(),
            scratch: String::new(),
            enrichers,
            options,
        }))
    }
}

impl Clicks {
    fn enrichers(&self, options: &ClicksOptions) -> Result<Enrichers, DatabaseError> {
        let on = |enricher| options.enrichers.contains(&enricher);
        let database = options.country_database.as_ref().filter(|_| on(Enricher::Country));
        Ok(Enrichers::new(Settings {
            user_agent: on(Enricher::UserAgent),
            page: on(Enricher::Page),
            referrer: on(Enricher::Referrer),
            countries: database.map(|path| self.databases.open(Path::new(path))).transpose()?,
            own_hosts: options.own_hosts.clone(),
        }))
    }
}

struct ClicksTransform {
    options: ClicksOptions,
    columns: Vec<Column>,
    enrichers: Enrichers,
    rows: Rows,
    writer: Writer,
    /// Reused for each row's `extra`.
    scratch: String,
}

impl Transform for ClicksTransform {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn apply(&mut self, records: &[SourceRecord<'_>], wants: Wants, output: &mut Output) {
        for record in records {
            match self.read(record) {
                Ok(Some((json, event))) => self.keep(record, json, &event, wants, output),
                Ok(None) => output.filter(),
                Err(rejection) => output.reject(rejection),
            }
        }
    }

    fn take_rows(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        Ok(self.rows.take(&self.options))
    }

    fn memory(&self) -> usize {
        self.rows.memory() + self.enrichers.memory()
    }
}

impl ClicksTransform {
    /// The record's event as the sinks see it; `None` if it is filtered.
    fn read<'a>(&self, record: &SourceRecord<'a>) -> Result<Option<(&'a [u8], Event<'a>)>, Rejection> {
        let json = record.value.ok_or_else(|| {
            Rejection::new(RejectionCode::NoValue, "", "the record has no value, expected an event in JSON")
        })?;
        let event = check(json)?;
        if !self.options.types.is_empty() && !self.options.types.contains(event.kind()) {
            return Ok(None);
        }
        for (from, to) in &self.options.rename {
            if event.has_member(from) && event.has_member(to) {
                return Err(Rejection::new(
                    RejectionCode::NameTaken,
                    format!("/event/{from}"),
                    format!("it is renamed to {to:?}, a member that the event has already"),
                ));
            }
        }
        Ok(Some((json, event)))
    }

    fn keep(
        &mut self,
        record: &SourceRecord<'_>,
        json: &[u8],
        event: &Event<'_>,
        wants: Wants,
        output: &mut Output,
    ) {
        let time_ms = event.time_ms();
        let (user_agent, page) = (event.text(USER_AGENT), event.text(PAGE));
        let (referrer, ip) = (event.text(REFERRER), event.text(IP));
        let said = Said {
            user_agent: user_agent.as_deref(),
            page: page.as_deref(),
            referrer: referrer.as_deref(),
            ip: ip.as_deref(),
        };
        let found = self.enrichers.find(&said);
        let derived = Derived::of(&found);
        if wants.values {
            let received_ms = record.timestamp_ms;
            let is_kept = output.keep_with(|bytes| {
                self.writer.write(bytes, json, &self.options, (time_ms, received_ms), &derived);
            });
            if !is_kept {
                return;
            }
        } else {
            output.keep();
        }
        if wants.rows {
            let dropped = (!self.options.drop.is_empty()).then(|| event.without(&self.options.drop));
            let client = dropped.as_ref().unwrap_or(event).columns(&mut self.scratch);
            self.rows.push(record.timestamp_ms, &client, &derived);
            output.row(RowPlace {
                offset: record.offset,
                time_ms: Some(time_ms),
                received_ms: record.timestamp_ms,
            });
        }
    }
}
