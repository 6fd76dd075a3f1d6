//! The members of `event` that have a column of their own in the lake.

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// 64-bit integer.
    Integer,
    /// 64-bit float.
    Number,
    /// Unicode text.
    Text,
}

/// A member of `event` and its column, which have the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub kind: FieldKind,
}

const fn field(name: &'static str, kind: FieldKind) -> Field {
    Field { name, kind }
}

/// In the order of their columns. `event.timestamp` is not among them: it is always there, as `event_time`.
pub const FIELDS: [Field; 12] = [
    field("customer_id", FieldKind::Integer),
    field("user_agent", FieldKind::Text),
    field("ip", FieldKind::Text),
    field("page", FieldKind::Text),
    field("referrer", FieldKind::Text),
    field("session_id", FieldKind::Text),
    field("element", FieldKind::Text),
    field("product_id", FieldKind::Text),
    field("order_id", FieldKind::Text),
    field("quantity", FieldKind::Integer),
    field("price", FieldKind::Number),
    field("currency", FieldKind::Text),
];

/// Index in [`FIELDS`] of `user_agent`.
pub const USER_AGENT: usize = 1;
/// Index in [`FIELDS`] of `ip`.
pub const IP: usize = 2;
/// Index in [`FIELDS`] of `page`.
pub const PAGE: usize = 3;
/// Index in [`FIELDS`] of `referrer`.
pub const REFERRER: usize = 4;

/// Index in [`FIELDS`] of the member `name`.
pub(super) fn index_of(name: &str) -> Option<usize> {
    Some(match name {
        "customer_id" => 0,
        "user_agent" => USER_AGENT,
        "ip" => IP,
        "page" => PAGE,
        "referrer" => REFERRER,
        "session_id" => 5,
        "element" => 6,
        "product_id" => 7,
        "order_id" => 8,
        "quantity" => 9,
        "price" => 10,
        "currency" => 11,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_where_it_stands() {
        for (index, field) in FIELDS.iter().enumerate() {
            assert_eq!(index_of(field.name), Some(index), "{}", field.name);
        }
        assert_eq!(FIELDS[USER_AGENT].name, "user_agent");
        assert_eq!(FIELDS[IP].name, "ip");
        assert_eq!(FIELDS[PAGE].name, "page");
        assert_eq!(FIELDS[REFERRER].name, "referrer");
        assert_eq!(index_of("timestamp"), None);
    }
}
