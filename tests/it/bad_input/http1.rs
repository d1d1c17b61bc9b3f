//! HTTP/1 requests that no client sends: bombs of headers, lengths that lie, rubbish for chunks, answers never read.

use std::io::{Read as _, Write as _};

use super::attacked::{Attacked, Attacker};
use crate::support::soon;

/// Connections that attack at once.
const ATTACKERS: usize = 50;
/// What any of these attacks may cost the service.
const MEMORY_KIB_MAX: u64 = 48 * 1024;

/// Sends all that is taken; what was answered.
fn sent(attacker: &Attacker, request: &[u8]) -> String {
    let mut wire = attacker.connect();
    // A service that refuses the beginning does not read the rest.
    let _cut_off = wire.write_all(request);
    let mut answer = Vec::new();
    let _reset = wire.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Many at once send it; the first lines of what they got, empty where the connection was closed.
async fn all_send(attacked: &Attacked, request: Vec<u8>) -> Vec<String> {
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..ATTACKERS {
        let (attacker, request) = (attacked.attacker(), request.clone());
        attackers.spawn_blocking(move || sent(&attacker, &request));
    }
    let answers = soon("the answers to the attackers", attackers.join_all()).await;
    answers.iter().map(|answer| answer.lines().next().unwrap_or_default().to_owned()).collect()
}

fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /webhooks/loginradius HTTP/1.1\r\nhost: x\r\n{headers}\r\n{body}").into_bytes()
}

#[tokio::test]
async fn bombs_of_headers_are_refused_and_cost_little() {
    let attacked = Attacked::start(&[]).await;
    let many = (0..100_000).map(|n| format!("x{n}: y\r\n")).collect::<Vec<_>>().concat();
    for (what, request) in [
        ("100,000 headers", post(&many, "")),
        ("a header of 8 MiB", post(&format!("x: {}\r\n", "a".repeat(8 << 20)), "")),
        ("a path of 8 MiB", format!("POST /{} HTTP/1.1\r\n\r\n", "a".repeat(8 << 20)).into_bytes()),
        ("a method of 8 MiB", "A".repeat(8 << 20).into_bytes()),
        ("line ends only", b"\r\n".repeat(1 << 20)),
        ("a name of 1 MiB", post(&format!("{}: x\r\n", "a".repeat(1 << 20)), "")),
        ("101 headers", post(&many.split_inclusive('\n').take(101).collect::<String>(), "")),
    ] {
        let answers = all_send(&attacked, request).await;
        let refused = |line: &String| line.is_empty() || line.contains(" 4");
        assert!(answers.iter().all(refused), "{what}: {answers:?}");
        attacked.answers(1).await;
    }
    let grown = attacked.memory_grown_kib();
    println!("bombs of headers: {grown} KiB more");
    assert!(grown <= MEMORY_KIB_MAX, "{grown} KiB more");
    attacked.stop().await;
}

#[tokio::test]
async fn lengths_that_lie_and_rubbish_for_chunks_are_no_logins() {
    let attacked = Attacked::start(&[("SOLOIST_WEBHOOK__BODY_TIMEOUT", "500ms")]).await;
    let login = r#"{"HookName":"login","Data":{"Uid":"ann"}}"#;
    let signature = format!("signature: {}\r\n", crate::support::process::signature(login));
    let signed = |headers: &str, body: &str| post(&format!("{signature}{headers}"), body);
    for (what, request) in [
        ("longer than it says", signed("content-length: 20\r\n", login)),
        ("shorter than it says", signed("content-length: 200\r\n", login)),
        ("a negative length", signed("content-length: -1\r\n", login)),
        ("no number", signed("content-length: 4O\r\n", login)),
        ("more than fits", signed("content-length: 99999999999999999999999\r\n", login)),
        ("two lengths", signed("content-length: 41\r\ncontent-length: 42\r\n", login)),
        ("a chunk without a size", signed("transfer-encoding: chunked\r\n", login)),
        ("a chunk larger than all", signed("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n")),
        ("a chunk that does not end", signed("transfer-encoding: chunked\r\n", "29\r\n{\"HookName\"")),
        ("an endless extension", signed("transfer-encoding: chunked\r\n", &format!("1;{}", "a".repeat(1 << 20)))),
        (
            "an endless trailer",
            signed("transfer-encoding: chunked\r\n", &format!("0\r\n{}", "a: b\r\n".repeat(99_999))),
        ),
        ("an encoding twice", signed("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("an unknown encoding", signed("transfer-encoding: x\r\n", login)),
        ("nothing behind a zero byte", signed("a: \0\r\n", login)),
        ("gzip", signed("content-encoding: gzip\r\ncontent-length: 41\r\n", login)),
        ("another protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS".to_vec()),
    ] {
        let answers = all_send(&attacked, request).await;
        assert!(!answers.iter().any(|line| line.contains(" 2")), "{what}: {answers:?}");
    }
    attacked.answers(5).await;
    let grown = attacked.memory_grown_kib();
    println!("lengths and chunks: {grown} KiB more");
    assert!(grown <= MEMORY_KIB_MAX, "{grown} KiB more");
    attacked.stop().await;
}

#[tokio::test]
async fn clients_that_ask_without_end_and_read_nothing_cost_little() {
    let attacked = Attacked::start(&[]).await;
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..ATTACKERS {
        let attacker = attacked.attacker();
        attackers.spawn_blocking(move || {
            let mut wire = attacker.connect();
            let requests = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
            // Until nothing is taken any more; 100 MiB would be a service that buffers.
            (0..3000).take_while(|_| wire.write_all(&requests).is_ok()).count()
        });
    }
    attacked.answers(20).await;
    let taken = soon("the attackers to be held off", attackers.join_all()).await;
    assert!(taken.iter().all(|requests| *requests < 3000), "{taken:?}");
    let grown = attacked.memory_grown_kib();
    println!("answers that nobody reads: {grown} KiB more");
    assert!(grown <= MEMORY_KIB_MAX, "{grown} KiB more");
    attacked.answers(5).await;
    attacked.stop().await;
}
