//! Network addresses and topics as people type them.

/// One `HOST:PORT`; an IPv6 host stands in brackets.
///
/// # Errors
/// What was expected, for clap to print beside the flag and the value.
pub fn parse_host_port(text: &str) -> Result<String, String> {
    let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
        let host_is_one =
            !host.is_empty() && (host.starts_with('[') && host.ends_with(']') || !host.contains(':'));
        host_is_one && !host.contains(['/', ' ', '@']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_address { Ok(text.to_owned()) } else { Err("expected HOST:PORT, like 127.0.0.1:7077".to_owned()) }
}

/// Kafka's bootstrap servers: one or several `HOST:PORT`, separated by commas.
///
/// # Errors
/// As [`parse_host_port`].
pub fn parse_servers(text: &str) -> Result<String, String> {
    if text.split(',').all(|server| parse_host_port(server).is_ok()) {
        Ok(text.to_owned())
    } else {
        Err("expected HOST:PORT, or several separated by commas".to_owned())
    }
}

/// A topic's name, by Kafka's own rule.
///
/// # Errors
/// What was expected, for clap to print beside the flag and the value.
pub fn parse_topic(text: &str) -> Result<String, String> {
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if is_plain && (1..=249).contains(&text.len()) && !matches!(text, "." | "..") {
        Ok(text.to_owned())
    } else {
        Err("expected a topic's name: 1 to 249 of a-z A-Z 0-9 . _ -".to_owned())
    }
}

/// `host:port`; an IPv6 address stands in brackets.
pub fn join_host_port(host: &str, port: u16) -> String {
    match host.contains(':') && !host.starts_with('[') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_host_port, parse_servers, parse_topic};

    #[test]
    fn servers_are_addresses_separated_by_commas() {
        assert!(parse_servers("a:9092,b:9092").is_ok());
        assert!(parse_servers("a:9092,").is_err() && parse_servers("a:9092 b:9092").is_err());
    }

    #[test]
    fn an_address_has_a_host_and_a_port_and_nothing_else() {
        for good in ["127.0.0.1:7077", "master.example:1", "[::1]:7077"] {
            assert_eq!(parse_host_port(good).as_deref(), Ok(good));
        }
        for bad in ["", "nonsense", ":7077", "host:", "host:0", "host:70000", "http://host:7077", "::1:7077"]
        {
            assert!(parse_host_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_topics_name_is_plain() {
        assert!(parse_topic("acme.clickstream.raw.events").is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(parse_topic(bad).is_err(), "{bad}");
        }
        assert!(parse_topic(&"a".repeat(250)).is_err());
    }
}
