//! `[queue.rabbitmq]`: the broker, and how events get to it.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::reader::Reader;

/// Where events wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A file of this process.
    Embedded,
    /// A broker, for many processes; the file is the spool in front of it.
    Rabbitmq,
}

/// `[queue.rabbitmq]`.
#[derive(Clone, Debug)]
pub struct RabbitmqConfig {
    /// One a host, tried in turn. At least one where the backend is RabbitMQ.
    pub urls: Vec<SecretString>,
    /// Replaces the password of every URL.
    pub password: Option<SecretString>,
    /// PEM; trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM; given if and only if `key_file` is.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub declare: bool,
    pub confirm_timeout: Duration,
    pub publish_channels: usize,
    pub spool_bytes_max: u64,
}

pub(super) fn read(reader: &mut Reader, backend: Backend) -> RabbitmqConfig {
    let urls: Option<Vec<SecretString>> = reader.take_optional("queue.rabbitmq.url");
    let config = RabbitmqConfig {
        urls: urls.unwrap_or_default(),
        password: reader.take_optional("queue.rabbitmq.password"),
        ca_file: reader.take_optional("queue.rabbitmq.ca_file"),
        cert_file: reader.take_optional("queue.rabbitmq.cert_file"),
        key_file: reader.take_optional("queue.rabbitmq.key_file"),
        declare: reader.take("queue.rabbitmq.declare"),
        confirm_timeout: reader.take("queue.rabbitmq.confirm_timeout"),
        publish_channels: reader.take("queue.rabbitmq.publish_channels"),
        spool_bytes_max: reader.take("queue.rabbitmq.spool_bytes_max"),
    };
    if backend == Backend::Rabbitmq && !reader.is_set("queue.rabbitmq.url") {
        reader.blame("queue.rabbitmq.url", "is missing; queue.backend = \"rabbitmq\" needs a broker");
    }
    let (cert, key) = ("queue.rabbitmq.cert_file", "queue.rabbitmq.key_file");
    for (given, missing) in [(cert, key), (key, cert)] {
        if reader.is_set(given) && !reader.is_set(missing) {
            reader.blame(missing, format!("is missing; {given} is of no use without it"));
        }
    }
    config
}
