//! What the troubles do to a client of an echo server.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::trouble::{Answers, Way};

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            });
        }
    });
    address
}

async fn proxy(wire: Wire) -> Proxy {
    Proxy::start("127.0.0.1:0".parse().expect("address"), echo().await, wire).await.expect("proxy")
}

async fn ask(client: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
    client.write_all(text).await?;
    let mut answer = vec![0; text.len()];
    client.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    let mut client = TcpStream::connect(proxy.address()).await.expect("connected");
    assert_eq!(ask(&mut client, b"hello").await.expect("an answer"), b"hello");
    client
}

#[tokio::test]
async fn what_is_cut_off_arrives_when_it_is_healed_and_others_are_not_touched() {
    let proxy = proxy(Wire::Bytes).await;
    let mut client = connect(&proxy).await;
    let other = proxy.begin(Whom::Process(1), Trouble::Cut(Way::Both));
    assert_eq!(ask(&mut client, b"free").await.expect("an answer"), b"free");
    assert_eq!(other.bites(), 0);
    for way in [Way::Requests, Way::Answers, Way::Both] {
        let cut = proxy.begin(Whom::Process(std::process::id()), Trouble::Cut(way));
        let mut asked = std::pin::pin!(ask(&mut client, b"held"));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut asked).await;
        assert!(early.is_err(), "{way:?}");
        proxy.end(&cut);
        assert_eq!(asked.await.expect("an answer"), b"held");
        assert!(cut.bites() > 0, "{way:?}");
    }
}

#[tokio::test]
async fn an_answer_is_lost_with_its_connection_as_often_as_told() {
    let proxy = proxy(Wire::Bytes).await;
    let lose = Trouble::LoseAnswers { which: Answers::OfBytes(8), times: 1 };
    let mut client = connect(&proxy).await;
    let lost = proxy.begin(Whom::Everybody, lose);
    assert_eq!(ask(&mut client, b"small").await.expect("small ones pass"), b"small");
    assert!(ask(&mut client, b"large enough").await.is_err());
    assert_eq!(lost.bites(), 1);
    let mut client = connect(&proxy).await;
    assert_eq!(ask(&mut client, b"large enough").await.expect("an answer"), b"large enough");
}

#[tokio::test]
async fn kafkas_answers_are_told_apart_and_late_requests_arrive() {
    // An answer of the echo server begins with what it takes for a correlation id: key and version.
    let request = |correlation: u8| [0, 0, 0, 8, 0, 26, 0, 3, 0, 26, 0, correlation];
    let proxy = proxy(Wire::Kafka).await;
    let mut client = TcpStream::connect(proxy.address()).await.expect("connected");
    let other = proxy.begin(Whom::Everybody, Trouble::LoseAnswers { which: Answers::ToKafka(25), times: 1 });
    assert!(ask(&mut client, &request(3)).await.is_ok());
    let lost = proxy.begin(Whom::Everybody, Trouble::LoseAnswers { which: Answers::ToKafka(26), times: 1 });
    assert!(ask(&mut client, &request(3)).await.is_err());
    assert_eq!((other.bites(), lost.bites()), (0, 1));

    let by = Duration::from_millis(1);
    let late = proxy.begin(Whom::Everybody, Trouble::LateRequests { api_key: 26, by, times: 1 });
    let mut client = TcpStream::connect(proxy.address()).await.expect("connected");
    assert!(ask(&mut client, &request(3)).await.is_err(), "the client is reset");
    while late.bites() == 0 {
        tokio::time::sleep(by).await;
    }
}

#[tokio::test]
async fn connections_are_reset_refused_delayed_and_slowed() {
    let proxy = proxy(Wire::Bytes).await;
    let mut client = connect(&proxy).await;
    assert_eq!(proxy.connections(Whom::Everybody), 1);
    assert_eq!(proxy.reset(Whom::Everybody), 1);
    assert!(ask(&mut client, b"reset").await.is_err());

    let refused = proxy.begin(Whom::Everybody, Trouble::Refuse);
    let mut client = TcpStream::connect(proxy.address()).await.expect("the kernel takes it");
    assert!(ask(&mut client, b"refused").await.is_err());
    assert_eq!(refused.bites(), 1);
    proxy.end(&refused);

    for trouble in [Trouble::Delay(Duration::from_millis(1)), Trouble::Bandwidth(100_000)] {
        let active = proxy.begin(Whom::Everybody, trouble);
        connect(&proxy).await;
        assert!(active.bites() > 1, "{trouble:?}");
        proxy.end(&active);
    }
}
