//! The country of an address, from a database in the MMDB format (GeoLite2, GeoIP2, DB-IP and others of their shape).
//!
//! Every record of the database is read once when it is opened: what is broken is refused then, and later look-ups
//! find sound ones only. Guesses nothing: an address that the database doesn't have is in no country.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions};

use super::cache::Cache;

/// An ISO 3166-1 code of two letters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CountryCode([u8; 2]);

impl CountryCode {
    fn new(code: &str) -> Option<Self> {
        let letters: [u8; 2] = code.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Self(letters))
    }

    pub fn as_str(&self) -> &str {
        // Two capital letters are text.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for CountryCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Why a database can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("the country database {} can't be read: {source}; give the path of an MMDB file on this host", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} is no sound MMDB file: {source}; fetch it anew", path.display())]
    Broken { path: PathBuf, source: MaxMindDbError },
    #[error(
        "{} is a database of the type {kind:?} and has no country.iso_code in any record; give one of countries or cities",
        path.display()
    )]
    NoCountries { path: PathBuf, kind: String },
}

/// An open database. Holds the whole file in memory.
pub struct Countries {
    reader: Reader<Vec<u8>>,
    bytes: usize,
}

impl Countries {
    /// Reads the file at `path`, which blocks: 50 ms for 12 MiB.
    ///
    /// # Errors
    /// When it can't be read, is no sound MMDB file, or has no countries.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let broken = |source| DatabaseError::Broken { path: path.to_owned(), source };
        let file = std::fs::read(path)
            .map_err(|source| DatabaseError::Unreadable { path: path.to_owned(), source })?;
        let bytes = file.len();
        let reader = Reader::from_source(file).map_err(broken)?;
        let mut seen = HashSet::new();
        let mut has_countries = false;
        for network in reader.networks(WithinOptions::default()).map_err(broken)? {
            let network = network.map_err(broken)?;
            if network.offset().is_some_and(|offset| seen.insert(offset)) {
                has_countries |= code(&network).map_err(broken)?.is_some();
            }
        }
        if !has_countries {
            let kind = reader.metadata().database_type.clone();
            return Err(DatabaseError::NoCountries { path: path.to_owned(), kind });
        }
        Ok(Self { reader, bytes })
    }

    /// The country of `ip`, an IPv4 or IPv6 address as text; `None` if the database has none, for addresses that
    /// belong to no place, and for other texts.
    pub fn find(&self, ip: &str) -> Option<CountryCode> {
        let ip = ip.parse::<IpAddr>().ok()?.to_canonical();
        if !is_somewhere(ip) {
            return None;
        }
        // An error is an IPv6 address in a database without them: all records were read when it was opened.
        code(&self.reader.lookup(ip).ok()?).ok().flatten()
    }

    /// Bytes that the database holds.
    pub fn memory(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for Countries {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = &self.reader.metadata().database_type;
        formatter.debug_struct("Countries").field("kind", kind).finish_non_exhaustive()
    }
}

fn code(found: &LookupResult<'_, Vec<u8>>) -> Result<Option<CountryCode>, MaxMindDbError> {
    let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
    Ok(found.decode_path::<&str>(&path)?.and_then(CountryCode::new))
}

/// Whether an address can be in a country. Those of examples can, as far as the database goes.
fn is_somewhere(ip: IpAddr) -> bool {
    let is_nowhere = match ip {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let is_shared = first == 100 && second & 0xc0 == 64;
            let is_local = ip.is_private() || ip.is_loopback() || ip.is_link_local() || first == 0;
            is_local || is_shared || ip.is_multicast() || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            let is_local = ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local();
            is_local || ip.is_unspecified() || ip.is_multicast()
        }
    };
    !is_nowhere
}

/// The databases that are open, so that all slots of a process share one of each file. A file that was replaced is
/// read anew when no slot holds the former one any more.
#[derive(Debug, Default)]
pub struct Databases {
    open: Mutex<Vec<(PathBuf, Weak<Countries>)>>,
}

impl Databases {
    /// The database at `path`; see [`Countries::open`].
    ///
    /// # Errors
    /// Those of [`Countries::open`].
    pub fn open(&self, path: &Path) -> Result<Arc<Countries>, DatabaseError> {
        // Nothing that panics leaves the list half changed. The lock is held while a file is read, so that those who
        // want the same one wait for it.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, countries)| countries.strong_count() > 0);
        if let Some(countries) =
            open.iter().find(|(known, _)| known == path).and_then(|(_, weak)| weak.upgrade())
        {
            return Ok(countries);
        }
        let countries = Arc::new(Countries::open(path)?);
        open.push((path.to_owned(), Arc::downgrade(&countries)));
        Ok(countries)
    }
}

/// A database and what was found in it.
#[derive(Debug)]
pub(super) struct KnownCountries {
    countries: Arc<Countries>,
    /// By the address as sent.
    known: Cache<Option<CountryCode>>,
}

impl KnownCountries {
    pub(super) fn new(countries: Arc<Countries>, most_bytes: u32) -> Self {
        Self { countries, known: Cache::new(most_bytes) }
    }

    pub(super) fn find(&mut self, ip: &str) -> Option<CountryCode> {
        // No address is longer; another text isn't worth remembering.
        const LONGEST: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();
        if ip.len() > LONGEST {
            return None;
        }
        self.known.get_or(ip, || self.countries.find(ip))
    }

    /// Without the database, which all share.
    pub(super) fn memory(&self) -> usize {
        self.known.memory()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
    }

    #[test]
    fn an_address_is_in_its_country() {
        let countries = Countries::open(&file("countries.mmdb")).expect("a database");
        for (ip, expected) in [
            ("192.0.2.17", Some("DE")),
            ("192.0.2.128", Some("FR")),
            ("198.51.100.4", Some("GB")),
            ("::ffff:198.51.100.4", Some("GB")),
            ("203.0.113.255", Some("US")),
            ("2001:db8:4006:80a::200e", Some("JP")),
            ("2001:DB8:8000::1", Some("BR")),
            ("8.8.8.8", None),
            // The database has a country for it.
            ("10.1.2.3", None),
            ("::ffff:10.1.2.3", None),
            ("127.0.0.1", None),
            ("fe80::1", None),
            ("192.0.2.17:80", None),
            ("192.0.2.017", None),
            (" 192.0.2.17", None),
            ("192.0.2.17, 203.0.113.1", None),
            ("shop.example", None),
            ("", None),
        ] {
            let found = countries.find(ip);
            assert_eq!(found.as_ref().map(CountryCode::as_str), expected, "{ip}");
        }
    }

    #[test]
    fn what_is_no_database_of_countries_is_refused_by_its_path() {
        let missing = Countries::open(Path::new("/nowhere/countries.mmdb")).expect_err("no file").to_string();
        assert!(missing.contains("/nowhere/countries.mmdb") && missing.contains("No such file"), "{missing}");

        let networks = Countries::open(&file("networks.mmdb")).expect_err("no countries").to_string();
        assert!(networks.contains("networks.mmdb") && networks.contains("Example-ASN"), "{networks}");

        let text = Countries::open(&file("make_countries.py")).expect_err("no database").to_string();
        assert!(text.contains("make_countries.py is no sound MMDB file"), "{text}");
    }

    proptest! {
        #[test]
        fn a_damaged_database_is_refused_or_does_no_harm(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            length in any::<prop::sample::Index>(),
            cut in any::<bool>(),
            ip in "[0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9a-f:.]{0,40}",
        ) {
            let mut bytes = std::fs::read(file("countries.mmdb")).expect("the file");
            for (index, value) in damage {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            if cut {
                bytes.truncate(length.index(bytes.len()));
            }
            let damaged = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(damaged.path(), bytes).expect("written");
            if let Ok(countries) = Countries::open(damaged.path()) {
                countries.find(&ip);
            }
        }
    }

    #[test]
    fn slots_share_a_database_while_one_holds_it() {
        let databases = Databases::default();
        let copy = tempfile::NamedTempFile::new().expect("a file");
        std::fs::copy(file("countries.mmdb"), copy.path()).expect("copied");
        let first = databases.open(copy.path()).expect("a database");
        let second = databases.open(copy.path()).expect("a database");
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        std::fs::write(copy.path(), "").expect("written");
        databases.open(copy.path()).expect_err("it was read anew");
    }
}
