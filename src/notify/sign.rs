//! What tells the receiver that a notice is ours: a signature of Standard Webhooks, or a signed security event token.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::config::NotifyFormat;

const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
/// More are some other file than a key.
const KEY_BYTES_MAX: u64 = 1 << 16;

/// The secret of an endpoint of Standard Webhooks. It is never printed.
pub(super) struct WebhookKey(Hmac<Sha256>);

impl WebhookKey {
    pub(super) fn new(secret: &[u8]) -> anyhow::Result<Self> {
        Ok(Self(Hmac::new_from_slice(secret)?))
    }

    /// The header `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// Who signs security event tokens, and for whom.
pub(super) struct TokenSigner {
    issuer: String,
    audience: String,
    key: SigningKey,
}

enum SigningKey {
    Es256(EcdsaKeyPair),
    EdDsa(Ed25519KeyPair),
}

/// What a token says.
pub(super) struct Claims<'a> {
    pub(super) id: &'a str,
    pub(super) issued_at: i64,
    pub(super) happened_at: i64,
    pub(super) user: &'a str,
    pub(super) reason: &'a str,
    pub(super) text: &'a str,
    pub(super) language: &'a str,
}

impl TokenSigner {
    /// Reads the key file.
    ///
    /// # Errors
    /// When it is none, or of another kind than ES256 and Ed25519.
    pub(super) fn read(issuer: &str, audience: &str, key_file: &Path) -> anyhow::Result<Self> {
        let shown = key_file.display();
        let length = std::fs::metadata(key_file).with_context(|| format!("cannot read the signing key {shown}"))?.len();
        if length > KEY_BYTES_MAX {
            bail!("{shown} is no signing key: it has more than {KEY_BYTES_MAX} bytes");
        }
        let pem = std::fs::read(key_file).with_context(|| format!("cannot read the signing key {shown}"))?;
        let key = SigningKey::parse(&pem).with_context(|| format!("cannot use the signing key {shown}"))?;
        Ok(Self { issuer: issuer.to_owned(), audience: audience.to_owned(), key })
    }

    /// The token, as it is sent.
    pub(super) fn token(&self, claims: &Claims<'_>) -> anyhow::Result<String> {
        let header = json!({ "alg": self.key.algorithm(), "typ": "secevent+jwt" });
        let by = match claims.reason {
            "chosen_by_user" => "user",
            "admin" => "admin",
            _ => "policy",
        };
        let payload = json!({
            "iss": self.issuer,
            "aud": self.audience,
            "iat": claims.issued_at,
            "jti": claims.id,
            "sub_id": { "format": "opaque", "id": claims.user },
            "events": { SESSION_REVOKED: {
                "event_timestamp": claims.happened_at,
                "initiating_entity": by,
                "reason_admin": { claims.language: claims.text },
            } },
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&payload));
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl SigningKey {
    fn parse(pem: &[u8]) -> anyhow::Result<Self> {
        // The parser's own text may quote the file.
        let Ok(der) = PrivateKeyDer::from_pem_slice(pem) else {
            bail!("it holds no private key in PEM form");
        };
        let der = der.secret_der();
        if let Ok(key) = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der) {
            return Ok(Self::Es256(key));
        }
        let Ok(key) = Ed25519KeyPair::from_pkcs8(der) else {
            bail!("it is neither of the curve P-256 nor Ed25519: openssl genpkey -algorithm ed25519 makes one");
        };
        Ok(Self::EdDsa(key))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Es256(key) => {
                let signature = key.sign(&SystemRandom::new(), message);
                Ok(signature.map_err(|_unspecified| anyhow!("the token cannot be signed"))?.as_ref().to_vec())
            }
            Self::EdDsa(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

/// How an endpoint's requests are signed.
pub(super) enum Signer {
    Webhook(WebhookKey),
    Token(TokenSigner),
}

impl Signer {
    pub(super) fn of(format: &NotifyFormat) -> anyhow::Result<Self> {
        match format {
            NotifyFormat::Standard { secret } => {
                let secret =
                    crate::config::webhook_secret(secret).context("its secret is none of Standard Webhooks")?;
                Ok(Self::Webhook(WebhookKey::new(&secret)?))
            }
            NotifyFormat::Caep { issuer, audience, signing_key_file } => {
                Ok(Self::Token(TokenSigner::read(issuer, audience, signing_key_file)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // The example in the specification of Standard Webhooks.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signature = WebhookKey::new(&secret).unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_no_key_is_refused_without_quoting_it() {
        let planted = "-----BEGIN PRIVATE KEY-----\nplanted\n-----END PRIVATE KEY-----\n";
        for pem in ["", "planted", planted] {
            let error = format!("{:#}", SigningKey::parse(pem.as_bytes()).err().unwrap());
            assert!(!error.contains("planted") && error.starts_with("it "), "{error}");
        }
    }
}
