//! How often a client may come: so many requests a second, and a burst at first. [`RateLimit`] decides, with time as
//! an argument; [`RateLimitLayer`] asks it.
//!
//! A client is an IPv4 address, or the first 64 bits of an IPv6 one: who has one of these addresses has them all. The
//! table holds a bounded number of clients; the ones that were seen longest ago are forgotten first, which lets them
//! begin with a burst again.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Request};
use axum::response::{IntoResponse, Response};
use futures::future::{Either, Ready, ready};
use tower::{Layer, Service};

use super::refusal::Refused;

/// Who is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    V4(u32),
    V6(u64),
}

impl Client {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.into()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct RateLimit {
    /// Between two requests of a client that keeps to the rate.
    interval: Duration,
    /// How far ahead of the rate a client may be.
    lead: Duration,
    /// Clients in one generation.
    most: usize,
    clients: Mutex<Generations>,
}

/// When each client's next request is due, in two generations: a full one becomes the old one, and the old one goes.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Client, Duration>,
    old: HashMap<Client, Duration>,
}

impl RateLimit {
    /// `per_second` and `burst` are at least 1; of `clients` state is kept.
    pub(super) fn new(per_second: u32, burst: u32, clients: usize) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        Self { interval, lead: interval * (burst - 1), most: (clients / 2).max(1), clients: Mutex::default() }
    }

    /// Counts a request that comes from `address` at `now`, any clock's time that only rises.
    ///
    /// Errors: how long the client has to wait; the request does not count.
    pub(super) fn admit(&self, now: Duration, address: IpAddr) -> Result<(), Duration> {
        let client = Client::of(address);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let known = clients.young.get(&client).or_else(|| clients.old.get(&client)).copied();
        let due = known.map_or(now, |due| due.max(now));
        let ahead = due - now;
        let (due, admitted) =
            if ahead > self.lead { (due, Err(ahead - self.lead)) } else { (due + self.interval, Ok(())) };
        if clients.young.len() >= self.most && !clients.young.contains_key(&client) {
            clients.old = std::mem::take(&mut clients.young);
        }
        clients.young.insert(client, due);
        admitted
    }

    /// Clients of whom state is kept.
    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.young.len() + clients.old.len()
    }
}

/// The address that a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) IpAddr);

/// The layer that answers a client that comes too often, before anything of its request is read.
#[derive(Debug, Clone)]
pub(super) struct RateLimitLayer {
    limit: Arc<RateLimit>,
    trusts_forwarded_for: bool,
    start: Instant,
}

impl RateLimitLayer {
    /// With `trusts_forwarded_for` the client is who the last proxy says that it is.
    pub(super) fn new(limit: Arc<RateLimit>, trusts_forwarded_for: bool) -> Self {
        Self { limit, trusts_forwarded_for, start: Instant::now() }
    }

    fn admit<B>(&self, request: &Request<B>) -> Result<(), Duration> {
        let forwarded = if self.trusts_forwarded_for { forwarded_for(request.headers()) } else { None };
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        // Who can't be told apart from others shares their rate.
        let client = forwarded.or(peer).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        self.limit.admit(self.start.elapsed(), client)
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimited<S>;

    fn layer(&self, inner: S) -> RateLimited<S> {
        RateLimited { layer: self.clone(), inner }
    }
}

#[derive(Debug, Clone)]
pub(super) struct RateLimited<S> {
    layer: RateLimitLayer,
    inner: S,
}

impl<S, B> Service<Request<B>> for RateLimited<S>
where
    S: Service<Request<B>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.layer.admit(&request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(wait) => Either::Right(ready(Ok(Refused::too_often(wait).into_response()))),
        }
    }
}

/// The address that the last proxy adds to `X-Forwarded-For`: those before it are the client's own claim.
fn forwarded_for(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    let last = last.rsplit(',').next()?.trim();
    last.parse().ok().or_else(|| last.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_has_its_burst_and_then_its_rate() {
        let limit = RateLimit::new(10, 3, 100);
        let client = address("192.0.2.1");
        let at = |millis| limit.admit(Duration::from_millis(millis), client);
        assert_eq!([at(0), at(0), at(0)], [Ok(()); 3]);
        assert_eq!(at(0), Err(Duration::from_millis(100)));
        assert_eq!(at(99), Err(Duration::from_millis(1)));
        assert_eq!(at(100), Ok(()));
        assert_eq!(at(100), Err(Duration::from_millis(100)));
        assert_eq!([at(10_000), at(10_000), at(10_000)], [Ok(()); 3]);
        assert!(at(10_000).is_err());
        assert_eq!(limit.admit(Duration::ZERO, address("192.0.2.2")), Ok(()));
    }

    #[test]
    fn a_network_of_64_bits_is_one_client() {
        let limit = RateLimit::new(1, 1, 100);
        let admit = |text| limit.admit(Duration::ZERO, address(text)).is_ok();
        assert!(admit("2001:db8:0:1::1") && !admit("2001:db8:0:1:ffff::2") && admit("2001:db8:0:2::1"));
        assert!(admit("192.0.2.1") && !admit("::ffff:192.0.2.1"));
    }

    #[test]
    fn only_the_last_proxys_word_is_believed() {
        let forwarded = |values: &[&'static str]| {
            let headers = values
                .iter()
                .map(|value| ("x-forwarded-for".parse().expect("name"), value.parse().expect("value")));
            forwarded_for(&headers.collect())
        };
        assert_eq!(forwarded(&["203.0.113.1, 192.0.2.1"]), Some(address("192.0.2.1")));
        assert_eq!(forwarded(&["203.0.113.1", "192.0.2.1:5000"]), Some(address("192.0.2.1")));
        assert_eq!(forwarded(&["[2001:db8::1]:443"]), Some(address("2001:db8::1")));
        assert_eq!((forwarded(&[]), forwarded(&["unknown"])), (None, None));
    }

    #[test]
    fn the_table_does_not_grow_and_who_comes_again_is_remembered() {
        let limit = RateLimit::new(1, 1, 1000);
        let faithful = address("192.0.2.1");
        let mut taken = 0;
        for number in 0..100_000_u32 {
            let _ = limit.admit(Duration::ZERO, IpAddr::from(number.to_be_bytes()));
            if number % 100 == 0 {
                taken += u32::from(limit.admit(Duration::ZERO, faithful).is_ok());
            }
            assert!(limit.clients() <= 1000);
        }
        assert_eq!(taken, 1);
    }

    proptest! {
        #[test]
        fn no_client_is_ever_faster_than_its_rate_and_burst(
            per_second in 1..1000_u32, burst in 1..50_u32, gaps in prop::collection::vec(0..2000_u64, 1..300),
        ) {
            let limit = RateLimit::new(per_second, burst, 10);
            let (mut now, mut admitted) = (Duration::ZERO, 0_u64);
            for gap in gaps {
                now += Duration::from_micros(gap);
                match limit.admit(now, address("192.0.2.1")) {
                    Ok(()) => admitted += 1,
                    Err(wait) => prop_assert!(wait > Duration::ZERO && wait <= limit.interval),
                }
                #[expect(clippy::cast_precision_loss, reason = "compared with a margin")]
                let (most, admitted) = (now.as_secs_f64() * f64::from(per_second) + f64::from(burst), admitted as f64);
                prop_assert!(admitted <= most + 0.01, "{} of {}", admitted, most);
            }
        }
    }
}
