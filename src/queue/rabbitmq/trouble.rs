//! What is wrong with the broker, in one sentence, and what to do about it.

use std::fmt;

use lapin::ErrorKind;

/// Something the broker refused or could not do, as people should read it. Never has a password in it.
#[derive(Clone, Debug)]
pub struct Trouble {
    what: String,
    remedy: &'static str,
    /// It is about what is declared or allowed: waiting does not mend it.
    pub(super) needs_a_person: bool,
}

impl Trouble {
    pub(super) fn new(what: impl Into<String>, remedy: &'static str) -> Self {
        Self { what: what.into(), remedy, needs_a_person: false }
    }

    fn for_a_person(what: impl Into<String>, remedy: &'static str) -> Self {
        Self { needs_a_person: true, ..Self::new(what, remedy) }
    }

    pub(super) fn timed_out(what: &str) -> Self {
        Self::new(
            format!("{what} took too long"),
            "see whether the broker is overloaded, or its cluster has no majority",
        )
    }

    /// Names the place that it is about.
    pub(super) fn at(mut self, place: &str) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// Where a permission is missing, names the right that was used: older brokers name only what it was used on.
    pub(super) fn for_want_of(mut self, right: &str) -> Self {
        if self.what.starts_with(MISSING) {
            self.what = format!("{} (needed: {right})", self.what);
            self.remedy = "give the user its permissions, by the patterns in the README: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ";
        }
        self
    }

    /// What to do.
    pub fn remedy(&self) -> &'static str {
        self.remedy
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Trouble {}

impl From<lapin::Error> for Trouble {
    fn from(error: lapin::Error) -> Self {
        let text = match error.kind() {
            ErrorKind::ProtocolError(error) => error.get_message().to_string(),
            ErrorKind::IOError(error) => error.to_string(),
            _ => error.to_string(),
        };
        explained(&text)
    }
}

const MISSING: &str = "a permission is missing";

/// The broker's own words (RabbitMQ 3.10) tell the cases apart; AMQP's codes do not.
fn explained(text: &str) -> Trouble {
    let other = || Trouble::new(format!("the broker cannot be used ({text})"), "see the broker's log");
    no_connection(text).or_else(|| refused(text)).unwrap_or_else(other)
}

/// What the network and TLS say.
fn no_connection(text: &str) -> Option<Trouble> {
    if text.contains("Connection refused") {
        return Some(Trouble::new(
            "nothing listens at the broker's address (connection refused)",
            "start RabbitMQ, or correct host and port in queue.rabbitmq.url",
        ));
    }
    if text.contains("failed to lookup address") {
        return Some(Trouble::new(
            format!("the broker's host is not known ({text})"),
            "correct the host in queue.rabbitmq.url, or see the DNS of this machine",
        ));
    }
    if text.contains("failed to parse") {
        return Some(Trouble::for_a_person(
            "what listens at the broker's address does not speak AMQP, or only with TLS",
            "use amqps:// for the broker's TLS port (usually 5671), or correct host and port in queue.rabbitmq.url",
        ));
    }
    if text.contains("corrupt message") || text.contains("InvalidContentType") {
        return Some(Trouble::for_a_person(
            "the broker does not speak TLS at this port",
            "use amqp:// in queue.rabbitmq.url, or the broker's TLS port (usually 5671)",
        ));
    }
    if text.contains("KeyMismatch") {
        return Some(Trouble::for_a_person(
            "our key does not belong to our certificate",
            "set queue.rabbitmq.key_file to the key of the certificate in queue.rabbitmq.cert_file",
        ));
    }
    // The broker's alert, about what we showed or did not show; otherwise it is about what it showed.
    if text.contains("fatal alert") {
        return Some(Trouble::for_a_person(
            format!("the broker does not accept our certificate, or none was given ({text})"),
            "set queue.rabbitmq.cert_file and key_file to a certificate that the broker's CA has signed",
        ));
    }
    // A broker that refuses a certificate may be gone before its alert is read.
    if ["reset by peer", "Broken pipe", "close_notify", "end of file"].iter().any(|end| text.contains(end)) {
        return Some(Trouble::new(
            format!("the broker broke the connection off ({text})"),
            "see the broker's log: it may want TLS (amqps://), or a certificate that its CA has signed (queue.rabbitmq.cert_file)",
        ));
    }
    if text.contains("certificate") {
        return Some(Trouble::for_a_person(
            format!("the broker's certificate is not accepted ({text})"),
            "set queue.rabbitmq.ca_file to the CA of the broker's certificate, and use a host name that stands in it",
        ));
    }
    None
}

/// What the broker itself says.
fn refused(text: &str) -> Option<Trouble> {
    if text.contains("Login was refused") {
        return Some(Trouble::for_a_person(
            "the broker refuses the user or the password",
            "correct queue.rabbitmq.url or password_file, or set the password: rabbitmqctl change_password USER PASSWORD",
        ));
    }
    if let Some(vhost) = between(text, "NOT_ALLOWED - vhost ", " not found") {
        return Some(Trouble::for_a_person(
            format!("the broker has no virtual host `{vhost}`"),
            "correct the path of queue.rabbitmq.url (the default virtual host is /%2f), or: rabbitmqctl add_vhost NAME",
        ));
    }
    if text.contains("NOT_ALLOWED") && text.contains("vhost") {
        return Some(Trouble::for_a_person(
            format!("the user may not use the virtual host ({text})"),
            "give the user its permissions: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ",
        ));
    }
    if let Some(what) = between(text, "PRECONDITION_FAILED - ", "") {
        return Some(mismatch(what));
    }
    if let Some(what) = between(text, "ACCESS_REFUSED - ", "") {
        return Some(Trouble::for_a_person(
            format!("{MISSING}: {what}"),
            "give the user its permissions (README: accounts), or set queue.rabbitmq.declare = false where it may not declare",
        ));
    }
    if let Some(what) = between(text, "NOT_FOUND - ", "") {
        return Some(Trouble::for_a_person(
            format!("something is not declared: {what}"),
            "run once with queue.rabbitmq.declare = true and an account that may declare, or load deploy/rabbitmq/definitions.json",
        ));
    }
    None
}

/// `inequivalent arg 'x-queue-type' for queue 'soloist.dead' in vhost '/': received 'classic' but current is 'quorum'`
fn mismatch(text: &str) -> Trouble {
    const REMEDY: &str = "let it run empty, stop soloist, delete it (rabbitmqctl delete_queue NAME) and start again: it is \
                          declared anew. Or change it back.";
    let quoted = |before: &str| between(text, before, "'").map(str::to_owned);
    let named = quoted("for queue '").map(|name| format!("queue `{name}`"));
    let named = named.or_else(|| quoted("for exchange '").map(|name| format!("exchange `{name}`")));
    // The broker says "received" of what we want, and "current" of what it has.
    let value = |said: &str, end: &str| {
        let plain = quoted(&format!("{said} '")).or_else(|| quoted(&format!("{said} the value '")));
        plain.or_else(|| between(text, &format!("{said} "), end).map(str::to_owned))
    };
    let (wanted, current) = (value("received", " but"), value("current is", ""));
    match (quoted("inequivalent arg '"), named, wanted, current) {
        (Some(argument), Some(named), Some(wanted), Some(current)) => Trouble::for_a_person(
            format!("{named} exists with {argument} = {current}, but soloist needs {wanted}"),
            REMEDY,
        ),
        _ => Trouble::for_a_person(format!("something exists with other properties: {text}"), REMEDY),
    }
}

/// What stands behind `before` and, unless that is empty, before `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    if after.is_empty() { Some(rest.trim()) } else { rest.split_once(after).map(|(found, _)| found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_refusal_becomes_one_sentence_with_a_remedy() {
        for (text, expected) in [
            ("Connection refused (os error 111)", "nothing listens"),
            (
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.",
                "refuses the user or the password",
            ),
            ("NOT_ALLOWED - vhost nope not found", "no virtual host `nope`"),
            ("received corrupt message of type InvalidContentType", "does not speak TLS"),
            (
                "ACCESS_REFUSED - access to queue 'x' in vhost '/' refused for user 'y'",
                "permission is missing: access to queue 'x'",
            ),
            ("failed to parse: Parsing Error", "does not speak AMQP, or only with TLS"),
            ("failed to lookup address information: Name or service not known", "host is not known"),
            ("keys may not be consistent: KeyMismatch", "our key does not belong to our certificate"),
            ("received fatal alert: CertificateRequired", "does not accept our certificate, or none was given"),
            ("Connection reset by peer (os error 104)", "broke the connection off"),
            ("invalid peer certificate: UnknownIssuer", "the broker's certificate is not accepted"),
            ("NOT_FOUND - no queue 'soloist.dead' in vhost '/'", "not declared: no queue 'soloist.dead'"),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'soloist.dead' in vhost '/': received \
                 'quorum' but current is 'classic'",
                "queue `soloist.dead` exists with x-queue-type = classic, but soloist needs quorum",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value \
                 '1000' of type 'signedint' but current is the value '5' of type 'long'",
                "queue `q` exists with x-message-ttl = 5, but soloist needs 1000",
            ),
            ("something new", "something new"),
        ] {
            let trouble = explained(text);
            assert!(trouble.to_string().contains(expected), "{text}: {trouble}");
            assert!(!trouble.remedy().is_empty());
        }
    }
}
