//! Floods of HTTP/2 frames, written by hand, with and without TLS.

use std::io::Write as _;

use super::attacked::{Attacked, Attacker, Wire};
use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, field, frame, post, setting,
};
use crate::support::soon;

/// Connections that attack at once.
const ATTACKERS: usize = 8;
/// Frames (or pairs of them) that each tries to send.
const FRAMES: u32 = 50_000;
/// What any flood may cost the service: half a MiB for each connection that attacks, and what others need meanwhile.
const MEMORY_KIB_MAX: u64 = ATTACKERS as u64 * 512 + 40 * 1024;

/// The bytes of one step of a flood; `n` counts from 0.
type Step = fn(n: u32) -> Vec<u8>;

/// Client streams have odd numbers.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

const FLOODS: [(&str, Step); 11] = [
    ("streams that are reset at once", |n| {
        let reset = frame(RST_STREAM, 0, stream(n), &8_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &post()), reset].concat()
    }),
    ("streams whose bodies are reset", |n| {
        let (headers, body) = (frame(HEADERS, END_HEADERS, stream(n), &post()), frame(DATA, 0, stream(n), b"{"));
        [headers, body, frame(RST_STREAM, 0, stream(n), &8_u32.to_be_bytes())].concat()
    }),
    ("streams that never end", |n| frame(HEADERS, END_HEADERS, stream(n), &post())),
    ("streams whose answers may not be sent", |n| {
        let closed = if n == 0 { frame(SETTINGS, 0, 0, &setting(4, 0)) } else { Vec::new() };
        [closed, frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &post())].concat()
    }),
    ("settings", |n| frame(SETTINGS, 0, 0, &setting(4, 1 + n))),
    ("pings", |n| frame(PING, 0, 0, &u64::from(n).to_be_bytes())),
    ("priorities", |n| frame(PRIORITY, 0, stream(n), &[0, 0, 0, 0, 16])),
    ("window updates", |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
    ("headers that go on and on", |n| match n {
        0 => frame(HEADERS, END_STREAM, 1, &post()),
        n => frame(CONTINUATION, 0, 1, &field("x", &n.to_string())),
    }),
    ("data that is empty", |n| match n {
        0 => frame(HEADERS, END_HEADERS, 1, &post()),
        _ => frame(DATA, 0, 1, b""),
    }),
    ("frames that nobody knows", |n| frame(0xbb, 0xff, n, &[0; 64])),
];

/// Sends the flood until the service takes no more; the number of steps that it took.
fn flood(attacker: &Attacker, step: Step) -> u32 {
    let mut wire: Box<dyn Wire> = attacker.connect();
    let hello = [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(SETTINGS, ACK, 0, b"")].concat();
    if wire.write_all(&hello).is_err() {
        return 0;
    }
    for first in (0..FRAMES).step_by(100) {
        let steps: Vec<u8> = (first..first + 100).flat_map(step).collect();
        if wire.write_all(&steps).is_err() {
            return first;
        }
    }
    FRAMES
}

async fn floods_keep_no_login_out(attacked: Attacked) {
    for (what, step) in FLOODS {
        let mut attackers = tokio::task::JoinSet::new();
        for _ in 0..ATTACKERS {
            let attacker = attacked.attacker();
            attackers.spawn_blocking(move || flood(&attacker, step));
        }
        attacked.answers(10).await;
        let in_the_flood = attacked.memory_grown_kib();
        let taken = soon("the flood to end", attackers.join_all()).await;
        let grown = attacked.memory_grown_kib().max(in_the_flood);
        println!("{what}: {grown} KiB more; {} steps were taken", taken.iter().sum::<u32>());
        assert!(grown <= MEMORY_KIB_MAX, "{what}: {grown} KiB more");
        attacked.answers(5).await;
    }
    attacked.stop().await;
}

#[tokio::test]
async fn floods_of_http_2_frames_keep_no_login_out() {
    floods_keep_no_login_out(Attacked::start(&[]).await).await;
}

#[tokio::test]
async fn floods_of_http_2_frames_over_tls_keep_no_login_out() {
    floods_keep_no_login_out(Attacked::start_with_tls().await).await;
}
