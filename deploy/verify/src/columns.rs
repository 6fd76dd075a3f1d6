//! Which columns of a row are compared, and what stands for a row. Pure.
//!
//! Files of earlier definitions may have other columns: all columns of all definitions are compared, and one that a file
//! does not have holds nothing, as if every row had a null there.

use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, FieldRef};

use crate::account::{Fingerprint, Made};

/// The columns of a pipeline's rows, but for those that say where the row came from.
#[derive(Debug)]
pub(crate) struct Columns {
    /// The row must rebuild the client's event, so that its own columns need not be compared one by one.
    pub(crate) rebuild: bool,
    content: Vec<FieldRef>,
    /// What was found out, if it is compared.
    derived: Vec<FieldRef>,
}

impl Columns {
    /// `fields`: of all definitions, one after the other.
    pub(crate) fn new(
        mut fields: Vec<FieldRef>,
        rebuild: bool,
        is_derived: impl Fn(&str) -> bool,
        with_derived: bool,
    ) -> Self {
        let kind = |field: &FieldRef| (field.name().clone(), field.data_type().to_string());
        fields.sort_by_key(kind);
        fields.dedup_by_key(|field| kind(field));
        let (derived, content) = fields.into_iter().partition(|field| is_derived(field.name()));
        Self {
            rebuild,
            content: if rebuild { Vec::new() } else { content },
            derived: if with_derived { derived } else { Vec::new() },
        }
    }

    /// Names of what must be read of a file.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.content.iter().chain(&self.derived).map(|field| field.name().as_str())
    }

    /// What stands for the rows of these columns; the content of [`Columns::rebuild`]'s rows is left open.
    pub(crate) fn rows(
        &self,
        found: &[(&FieldRef, &ArrayRef)],
        count: usize,
    ) -> Result<Vec<Made>, ArrowError> {
        let content = match self.rebuild {
            true => vec![Fingerprint::NO_EVENT; count],
            false => fingerprints(&self.content, found, count)?,
        };
        let derived = fingerprints(&self.derived, found, count)?;
        let short = |derived: Fingerprint| if self.derived.is_empty() { 0 } else { derived.short() };
        let made = |(content, derived)| Made { content, derived: short(derived) };
        Ok(content.into_iter().zip(derived).map(made).collect())
    }

    /// The same of what was read of a file.
    pub(crate) fn rows_of(&self, batch: &RecordBatch) -> Result<Vec<Made>, ArrowError> {
        let schema = batch.schema();
        let found: Vec<_> = schema.fields().iter().zip(batch.columns()).collect();
        self.rows(&found, batch.num_rows())
    }
}

fn fingerprints(
    wanted: &[FieldRef],
    found: &[(&FieldRef, &ArrayRef)],
    count: usize,
) -> Result<Vec<Fingerprint>, ArrowError> {
    if wanted.is_empty() {
        return Ok(vec![Fingerprint::of(()); count]);
    }
    let array = |field: &FieldRef| {
        let is_same =
            |other: &FieldRef| (other.name(), other.data_type()) == (field.name(), field.data_type());
        let array = found.iter().find(|(other, _)| is_same(other)).map(|(_, array)| ArrayRef::clone(array));
        array.unwrap_or_else(|| new_null_array(field.data_type(), count))
    };
    let arrays: Vec<ArrayRef> = wanted.iter().map(array).collect();
    let fields = arrays.iter().map(|array| SortField::new(array.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(&arrays)?;
    Ok(rows.iter().map(|row| Fingerprint::of(row.as_ref())).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};
    use arrow_schema::{DataType, Field};

    use super::*;

    fn field(name: &str, kind: DataType) -> FieldRef {
        Arc::new(Field::new(name, kind, true))
    }

    #[test]
    fn a_column_that_a_file_does_not_have_holds_nothing() {
        let (a, b) = (field("a", DataType::Int64), field("b", DataType::Utf8));
        let columns = Columns::new(vec![b.clone(), a.clone(), a.clone()], false, |_| false, false);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![None, Some("x")]));
        let short = columns.rows(&[(&a, &numbers)], 2).expect("rows");
        let long = columns.rows(&[(&a, &numbers), (&b, &texts)], 2).expect("rows");
        assert_eq!(short[0], long[0]);
        assert_ne!(short[1], long[1]);
        let other_kind = field("a", DataType::Utf8);
        let wrong = columns.rows(&[(&other_kind, &texts)], 2).expect("rows");
        assert_ne!(wrong[1], long[1]);
    }

    #[test]
    fn what_was_found_out_stands_apart() {
        let (a, os) = (field("a", DataType::Int64), field("os", DataType::Utf8));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 1]));
        let systems: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
        for with_derived in [false, true] {
            let columns = Columns::new(vec![a.clone(), os.clone()], false, |name| name == "os", with_derived);
            let rows = columns.rows(&[(&a, &numbers), (&os, &systems)], 2).expect("rows");
            assert_eq!(rows[0].content, rows[1].content);
            assert_eq!(rows[0].derived == rows[1].derived, !with_derived);
        }
    }
}
