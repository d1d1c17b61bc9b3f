//! A user and the profile that the vendor shows of him. All of it is obviously fake.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    config::WebhookForm,
    session::{Moment, stamp},
};

/// What a profile says beyond the user's name: everything that a policy may ask about.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traits {
    /// `Roles`.
    pub roles: Vec<String>,
    /// `CustomFields`.
    pub custom_fields: BTreeMap<String, String>,
    /// `SessionsLimit`; left out of profiles when `None`. It holds where Restrict Login Sharing is on.
    pub sessions_limit: Option<u32>,
    /// The primary address. `None`: `<uid>@example.com`.
    pub email: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) uid: String,
    pub(super) profile_id: String,
    pub(super) created_at: Timestamp,
    pub(super) last_login_at: Timestamp,
    pub(super) logins: u64,
    pub(super) traits: Traits,
    /// Positions in the world's list of sessions.
    pub(super) sessions: Vec<usize>,
    /// When listings of this user were answered, as far back as a revoker may have started from.
    pub(super) listings: VecDeque<Moment>,
    pub(super) last_logout: Option<Moment>,
}

impl User {
    pub(super) fn new(uid: &str, profile_id: String, now: Timestamp) -> Self {
        Self {
            uid: uid.to_owned(),
            profile_id,
            created_at: now,
            last_login_at: now,
            logins: 0,
            traits: Traits::default(),
            sessions: Vec::new(),
            listings: VecDeque::new(),
            last_logout: None,
        }
    }

    fn email(&self) -> String {
        self.traits.email.clone().unwrap_or_else(|| format!("{}@example.com", self.uid))
    }

    /// The value of one profile key. Keys that are not named here are null, as most are in the vendor's samples.
    #[rustfmt::skip]
    fn value(&self, key: &str, form: WebhookForm) -> Value {
        let modern = form == WebhookForm::Year2023;
        match key {
            "Password" if modern => json!("**********"),
            // The 2019 sample shows a hash that was mangled by a wrong decoding, control characters included.
            "Password" => json!("not\u{1}a\u{83}real\u{fffd}hash"),
            "LoginLockedType" if modern => json!("None"),
            "LoginLockedType" | "FollowersCount" | "FriendsCount" | "TotalStatusesCount" | "NumRecommenders"
            | "Age" | "TotalPrivateRepository" | "PublicGists" | "PrivateGists" | "PinsCount" | "BoardsCount"
            | "LikesCount" => json!(0),
            "LastPasswordChangeDate" | "SignupDate" | "CreatedDate" | "ProfileModifiedDate" => {
                json!(stamp(self.created_at, 3))
            }
            "EmailVerified" | "IsActive" | "IsSecurePassword" | "IsRequiredFieldsFilledOnce" | "IsCustomUid" => json!(true),
            "IsDeleted" | "IsEmailSubscribed" | "PhoneIdVerified" | "IsLoginLocked" | "IsProtected" | "Hireable" => {
                json!(false)
            }
            "Uid" | "UserName" | "LastName" => json!(self.uid),
            "CustomFields" => json!(self.traits.custom_fields),
            "NoOfLogins" => json!(self.logins),
            "PhoneId" => json!("+10000000000"),
            "RegistrationProvider" | "Provider" => json!("Email"),
            "LastLoginLocation" => json!("Sandbox City, Nowhere"),
            "RegistrationSource" => json!("API"),
            "PrivacyPolicy" => json!({
                "Version": "v1", "AcceptSource": "http://localhost/", "AcceptDateTime": stamp(self.created_at, 3),
            }),
            "ID" => json!(self.profile_id),
            "FirstName" => json!("Sandbox"),
            "FullName" => json!(format!("Sandbox {}", self.uid)),
            "Email" => json!([{ "Type": "Primary", "Value": self.email() }]),
            "About" => json!("This person does not exist. Zoë is spelled with two dots."),
            "Addresses" => json!([{
                "Type": "personal", "Address1": null, "Address2": null, "City": "Sandbox City", "State": null,
                "PostalCode": "00000", "Region": null, "Country": "Nowhere",
            }]),
            "LocalCity" => json!("Sandbox City"),
            "LocalCountry" => json!("Nowhere"),
            "ModifiedDate" => json!(stamp(self.last_login_at, 3)),
            "FirstLogin" => json!(self.logins <= 1),
            "LastLoginDate" => json!(stamp(self.last_login_at, 7)),
            "Roles" if self.traits.roles.is_empty() => Value::Null,
            "Roles" => json!(self.traits.roles),
            "SessionsLimit" => json!(self.traits.sessions_limit),
            _ => Value::Null,
        }
    }

    /// The profile as JSON text with the vendor's keys in the vendor's order, only those of `fields` if there are any.
    pub(super) fn profile(&self, form: WebhookForm, fields: &[String]) -> String {
        let modern: &[&str] = match form {
            WebhookForm::Year2019 => &[],
            WebhookForm::Year2023 => &["Roles", "ConsentProfile", "RegistrationData", "PIN"],
        };
        let limit: &[&str] = if self.traits.sessions_limit.is_some() { &["SessionsLimit"] } else { &[] };
        let mut text = String::with_capacity(4_096);
        text.push('{');
        for key in KEYS.split_ascii_whitespace().chain(modern.iter().copied()).chain(limit.iter().copied()) {
            if !fields.is_empty() && !fields.iter().any(|field| field.eq_ignore_ascii_case(key)) {
                continue;
            }
            let comma = if text.len() > 1 { "," } else { "" };
            // Writing to a string cannot fail.
            let _written = write!(text, "{comma}\"{key}\":{}", self.value(key, form));
        }
        text.push('}');
        text
    }

    /// The body of the login webhook.
    pub(super) fn login_payload(&self, form: WebhookForm, hook_id: &str, at: Timestamp) -> String {
        let data = self.profile(form, &[]);
        match form {
            WebhookForm::Year2019 => {
                let time = stamp(at, 0);
                format!(r#"{{"HookName":"login","Time":"{time}","HookId":"{hook_id}","Data":{data}}}"#)
            }
            WebhookForm::Year2023 => {
                let time = stamp(at, 3);
                format!(r#"{{"HookName":"login","HookId":"{hook_id}","Data":{data},"Time":"{time}"}}"#)
            }
        }
    }
}

/// The keys of `Data` in the vendor's login sample, in its order.
const KEYS: &str = "\
    Password LastPasswordChangeDate PasswordExpirationDate LastPasswordChangeToken EmailVerified IsActive IsDeleted Uid \
    CustomFields IsEmailSubscribed UserName NoOfLogins PhoneId PhoneIdVerified ExternalUserLoginId RegistrationProvider \
    IsLoginLocked LoginLockedType LastLoginLocation RegistrationSource IsCustomUid UnverifiedEmail IsSecurePassword \
    PrivacyPolicy ExternalIds IsRequiredFieldsFilledOnce ID Provider Prefix FirstName MiddleName LastName Suffix FullName \
    NickName ProfileName BirthDate Gender Website Email Country ThumbnailImageUrl ImageUrl Favicon ProfileUrl HomeTown \
    State City Industry About TimeZone LocalLanguage CoverPhoto TagLine Language Verified UpdatedTime Positions \
    Educations PhoneNumbers IMAccounts Addresses MainAddress Created CreatedDate ModifiedDate ProfileModifiedDate \
    LocalCity ProfileCity LocalCountry ProfileCountry FirstLogin IsProtected RelationshipStatus Quota Quote \
    InterestedIn Interests Religion Political Sports InspirationalPeople HttpsImageUrl FollowersCount FriendsCount \
    IsGeoEnabled TotalStatusesCount Associations NumRecommenders Honors Awards Skills CurrentStatus Certifications \
    Courses Volunteer RecommendationsReceived Languages Projects Games Family TeleVisionShow MutualFriends Movies Books \
    AgeRange PublicRepository Hireable RepositoryUrl Age Patents FavoriteThings ProfessionalHeadline \
    ProviderAccessCredential RelatedProfileViews KloutScore LRUserID PlacesLived Publications JobBookmarks Suggestions \
    Badges MemberUrlResources TotalPrivateRepository Currency StarredUrl GistsUrl PublicGists PrivateGists Subscription \
    Company GravatarImageUrl ProfileImageUrls WebProfiles PinsCount BoardsCount LikesCount SignupDate LastLoginDate \
    PreviousUids Identities";

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> User {
        User::new("ann", "0123".to_owned(), "2019-06-11T20:27:56.9658619Z".parse().unwrap())
    }

    #[test]
    fn a_payload_is_json_of_the_published_size_and_key_count() {
        let text = ann().login_payload(WebhookForm::Year2019, "079345b7", ann().created_at);
        let body: Value = serde_json::from_str(&text).unwrap();

        assert_eq!(body["Data"].as_object().unwrap().len(), 141);
        assert!((3_000..4_000).contains(&text.len()), "{} bytes", text.len());
        assert_eq!(body["Time"], "2019-06-11T20:27:56Z");
        assert_eq!(body["Data"]["LastLoginDate"], "2019-06-11T20:27:56.9658619Z");
    }

    #[test]
    fn the_two_generations_differ_in_key_order_and_precision() {
        let order = |form| {
            let text = ann().login_payload(form, "079345b7", ann().created_at);
            let mut keys = ["\"HookName\"", "\"Time\"", "\"HookId\"", "\"Data\""];
            keys.sort_by_key(|key| text.find(key));
            keys.join(" ")
        };

        assert_eq!(order(WebhookForm::Year2019), r#""HookName" "Time" "HookId" "Data""#);
        assert_eq!(order(WebhookForm::Year2023), r#""HookName" "HookId" "Data" "Time""#);
    }

    #[test]
    fn a_profile_can_be_cut_down_to_some_fields() {
        let fields = ["uid".to_owned(), "Roles".to_owned()];

        assert_eq!(ann().profile(WebhookForm::Year2023, &fields), r#"{"Uid":"ann","Roles":null}"#);
    }
}
