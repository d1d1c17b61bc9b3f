//! Stands between a process and the sandbox, and tells the trap how far the process has come with a user.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use soloist::sandbox::Sandbox;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::trap::{Step, Trap};

/// Its tasks end when it is dropped.
pub(super) struct Gate {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Gate {
    pub(super) async fn before(sandbox: Arc<Sandbox>, trap: Arc<Trap>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (sandbox, trap) = (Arc::clone(&sandbox), Arc::clone(&trap));
                        connections.spawn(relay(accepted.unwrap().0, sandbox, trap));
                    }
                    // That a process was killed in the middle of a call is what this is for.
                    Some(ended) = connections.join_next() => drop(ended.unwrap()),
                }
            }
        });
        Self { addr, _tasks: tasks }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

/// One call after the other, each answer in one piece.
async fn relay(client: TcpStream, sandbox: Arc<Sandbox>, trap: Arc<Trap>) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let mut target = BufReader::new(TcpStream::connect(sandbox.addr()).await?);
    client.get_ref().set_nodelay(true)?;
    loop {
        let request = head(&mut client).await?;
        let revokes = request.contains("/access_token/invalidate?");
        if revokes && trap.passed(Step::Listed) {
            return Ok(());
        }
        target.write_all(request.as_bytes()).await?;
        let mut answer = head(&mut target).await?.into_bytes();
        let mut body = vec![0; content_length(&answer)];
        target.read_exact(&mut body).await?;
        answer.append(&mut body);
        if revokes && trap.passed(Step::Revoked) {
            return Ok(());
        }
        let is_last_look = listed_user(&request).is_some_and(|user| nothing_left_to_do(&sandbox, user));
        client.write_all(&answer).await?;
        if is_last_look && trap.passed(Step::LookedAgain) {
            return Ok(());
        }
    }
}

/// Up to the empty line. Requests have no body: all calls are GET.
async fn head(from: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.expect("the sandbox says how long an answer is").trim().parse().unwrap()
}

fn listed_user(request: &str) -> Option<&str> {
    let (_, query) = request.lines().next()?.split_once("activesession?")?;
    query.split(['&', ' ']).find_map(|pair| pair.strip_prefix("accountid="))
}

/// Whether the user was brought down to his limit.
fn nothing_left_to_do(sandbox: &Sandbox, user: &str) -> bool {
    let ever = sandbox.sessions_ever(user);
    ever.len() > 1 && ever.iter().filter(|session| session.ended_at.is_none()).count() == 1
}
