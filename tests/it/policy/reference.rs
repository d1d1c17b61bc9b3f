//! The rule word for word from its set notation: slow, naive, and independent of how the fast one counts.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use soloist::model::{Session, TokenDigest};
use soloist::policy::{Count, DeviceField, Limit, Policy, ReasonCode, Strategy};

use super::cases::Case;

/// Who ends, why, and the witnesses, newest first.
pub(super) type Ends = BTreeMap<TokenDigest, (ReasonCode, Vec<TokenDigest>)>;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Device {
    Own(TokenDigest),
    Told(Vec<String>),
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub digest: TokenDigest,
    pub at: Timestamp,
    pub device: Device,
    pub bucket: Option<String>,
}

impl Row {
    fn key(&self) -> (Timestamp, TokenDigest) {
        (self.at, self.digest)
    }
}

fn said(field: DeviceField, session: &Session) -> Option<String> {
    let device = &session.device;
    let text = match field {
        DeviceField::DeviceType => &device.device_type,
        DeviceField::Os => &device.os,
        DeviceField::Browser => &device.browser,
        DeviceField::Device => &device.device,
        DeviceField::Ip => &device.ip,
    };
    let text = text.as_ref()?.trim().to_lowercase();
    (!["", "unknown"].contains(&text.as_str())).then_some(text)
}

pub(super) fn row(session: &Session, policy: &Policy) -> Row {
    let told: Option<Vec<String>> = policy.device_fields.iter().map(|field| said(*field, session)).collect();
    let device = match told {
        Some(told) if policy.count == Count::Device => Device::Told(told),
        _ => Device::Own(session.digest),
    };
    let bucket = policy.buckets.as_ref().and_then(|buckets| said(buckets.by, session));
    Row { digest: session.digest, at: session.login_at.unwrap(), device, bucket }
}

pub(super) fn bucket_limit(policy: &Policy, bucket: Option<&String>) -> usize {
    let limits = policy.buckets.as_ref().map(|buckets| &buckets.limits);
    bucket.and_then(|bucket| limits?.get(bucket)).map_or(usize::MAX, |limit| number(*limit))
}

pub(super) fn number(limit: Limit) -> usize {
    match limit {
        Limit::AtMost(count) => count.get() as usize,
        Limit::Unlimited => usize::MAX,
    }
}

/// What the rule ends, pinned sessions included and refusals not asked.
pub(super) fn over_limit(case: &Case) -> Ends {
    let rows: Vec<Row> = case.counted().iter().map(|session| row(session, &case.policy)).collect();
    match case.policy.strategy {
        Strategy::EvictOldest => by_formula(&rows, &case.policy),
        Strategy::RejectNewest => {
            let judged = rows.iter().filter_map(|s| {
                let within = |x: &&Row| s.at.duration_since(x.at) <= case.policy.session_lifetime.try_into().unwrap();
                let seen: Vec<Row> = rows.iter().filter(|x| x.key() <= s.key()).filter(within).cloned().collect();
                by_formula(&seen, &case.policy).remove_entry(&s.digest)
            });
            judged.collect()
        }
    }
}

/// `R1 ∪ R2` over `E`.
pub(super) fn by_formula(e: &[Row], policy: &Policy) -> Ends {
    let evict = policy.strategy == Strategy::EvictOldest;
    let before = |x: &Row, s: &Row| if evict { x.key() > s.key() } else { x.key() < s.key() };
    let same = |s: &Row| -> Vec<Row> { e.iter().filter(|x| before(x, s) && x.device == s.device).cloned().collect() };
    let others = |s: &Row, among: &[Row]| -> Vec<Row> {
        among.iter().filter(|x| before(x, s) && x.device != s.device).cloned().collect()
    };
    let count = |rows: &[Row]| rows.iter().map(|x| &x.device).collect::<HashSet<_>>().len();
    let first_of_devices = |mut rows: Vec<Row>, needed: usize| {
        rows.sort_by_key(Row::key);
        if evict {
            rows.reverse();
        }
        let mut met = BTreeSet::new();
        rows.retain(|x| met.insert(x.device.clone()));
        newest_first(rows, needed)
    };

    let mut r1 = Ends::new();
    for s in e {
        let limit = bucket_limit(policy, s.bucket.as_ref());
        let bucket: Vec<Row> = e.iter().filter(|x| x.bucket == s.bucket).cloned().collect();
        let (in_bucket, same) = (others(s, &bucket), same(s));
        if count(&in_bucket) >= limit {
            r1.insert(s.digest, (ReasonCode::BucketLimit, first_of_devices(in_bucket, limit)));
        } else if same.len() >= number(policy.per_device) {
            let mut same = same;
            same.sort_by_key(Row::key);
            if evict {
                same.reverse();
            }
            r1.insert(s.digest, (ReasonCode::SameDeviceNewer, newest_first(same, number(policy.per_device))));
        }
    }
    let left: Vec<Row> = e.iter().filter(|s| !r1.contains_key(&s.digest)).cloned().collect();
    let limit = number(policy.limit);
    let r2 = left.iter().map(|s| (s, others(s, &left))).filter(|(_, others)| count(others) >= limit);
    let r2 = r2.map(|(s, others)| (s.digest, (ReasonCode::DisplacedByNewerLogin, first_of_devices(others, limit))));
    let mut ends: Ends = r1.clone().into_iter().chain(r2).collect();
    if !evict {
        for (reason, _) in ends.values_mut() {
            *reason = ReasonCode::RejectedOverLimit;
        }
    }
    ends
}

fn newest_first(mut rows: Vec<Row>, needed: usize) -> Vec<TokenDigest> {
    rows.truncate(needed);
    rows.sort_by_key(Row::key);
    rows.iter().rev().map(|x| x.digest).collect()
}
