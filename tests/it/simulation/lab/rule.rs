//! The rule, word for word from its set notation: slow, and independent of how the program counts.

use std::collections::HashSet;

use jiff::Timestamp;
use soloist::model::{SessionDevice, TokenDigest};
use soloist::policy::{Count, DeviceField, Limit, Policy, Strategy};

/// A session as the provider knows it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) digest: TokenDigest,
    /// As listings tell it.
    pub(crate) at: Option<Timestamp>,
    pub(crate) device: SessionDevice,
}

#[derive(Clone)]
struct Known {
    key: (Timestamp, TokenDigest),
    device: Vec<String>,
    bucket: Option<String>,
}

/// The sessions that the rule ends. Where the newest are turned away, each is judged as if nothing existed that is older
/// than its own lifetime reaches back to: so one more old session never saves another.
pub(crate) fn over(rows: &[Row], policy: &Policy) -> HashSet<TokenDigest> {
    let known: Vec<Known> = rows.iter().filter_map(|row| known(row, policy)).collect();
    if policy.strategy == Strategy::EvictOldest {
        return over_caps(&known, policy);
    }
    let lifetime = policy.session_lifetime.try_into().unwrap();
    let in_reach = |s: &Known| -> Vec<Known> {
        known.iter().filter(|x| s.key.0.duration_since(x.key.0) <= lifetime).cloned().collect()
    };
    let is_over = |s: &&Known| over_caps(&in_reach(s), policy).contains(&s.key.1);
    known.iter().filter(is_over).map(|s| s.key.1).collect()
}

fn over_caps(known: &[Known], policy: &Policy) -> HashSet<TokenDigest> {
    let is_witness = |x: &Known, s: &Known| match policy.strategy {
        Strategy::EvictOldest => x.key > s.key,
        Strategy::RejectNewest => x.key < s.key,
    };
    let same = |s: &Known| known.iter().filter(|x| is_witness(x, s) && x.device == s.device).count();
    let others = |s: &Known, among: &dyn Fn(&Known) -> bool| {
        let others = known.iter().filter(|x| among(x) && is_witness(x, s) && x.device != s.device);
        others.map(|x| &x.device).collect::<HashSet<_>>().len()
    };
    let per_device = if policy.count == Count::Device { number(policy.per_device) } else { usize::MAX };
    let first = |s: &Known| {
        let limit = policy.buckets.as_ref().zip(s.bucket.as_ref()).and_then(|(all, of)| all.limits.get(of));
        same(s) >= per_device || others(s, &|x| x.bucket == s.bucket) >= limit.map_or(usize::MAX, |n| number(*n))
    };
    let mut ended: HashSet<TokenDigest> = known.iter().filter(|s| first(s)).map(|s| s.key.1).collect();
    let left = |x: &Known| !ended.contains(&x.key.1);
    let second = known.iter().filter(|s| left(s) && others(s, &left) >= number(policy.limit));
    let second: Vec<TokenDigest> = second.map(|s| s.key.1).collect();
    ended.extend(second);
    ended
}

fn known(row: &Row, policy: &Policy) -> Option<Known> {
    let own = || vec![format!("{:?}", row.digest)];
    let told: Option<Vec<String>> = policy.device_fields.iter().map(|field| said(*field, &row.device)).collect();
    let device = if policy.count == Count::Device { told.unwrap_or_else(own) } else { own() };
    let bucket = policy.buckets.as_ref().and_then(|buckets| said(buckets.by, &row.device));
    Some(Known { key: (row.at?, row.digest), device, bucket })
}

fn said(field: DeviceField, device: &SessionDevice) -> Option<String> {
    let text = match field {
        DeviceField::DeviceType => &device.device_type,
        DeviceField::Os => &device.os,
        DeviceField::Browser => &device.browser,
        DeviceField::Device => &device.device,
        DeviceField::Ip => &device.ip,
    };
    text.clone().filter(|text| text != "unknown")
}

fn number(limit: Limit) -> usize {
    match limit {
        Limit::AtMost(count) => usize::try_from(count.get()).unwrap(),
        Limit::Unlimited => usize::MAX,
    }
}
