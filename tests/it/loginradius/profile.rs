//! Profiles: whose token it is, and what rules may look at.

use serde_json::json;
use soloist::model::UserTraits;
use soloist::provider::SessionProvider as _;
use soloist::provider::loginradius::{CredentialsIn, LoginRadius, LoginRadiusConfig};

use super::*;

async fn traits(replies: impl IntoIterator<Item = Reply>) -> Result<UserTraits, ProviderError> {
    Vendor::new(replies).await.client().traits(&ann()).await
}

#[tokio::test]
async fn the_owner_of_a_token_is_asked_for_in_the_tokens_own_name() {
    let vendor = Vendor::new([ok(&json!({"Uid": "ann"}))]).await;

    assert_eq!(vendor.client().identify(&token()).await.unwrap(), ann());

    let [request] = vendor.seen().try_into().ok().unwrap();
    assert_eq!(request.uri, "/identity/v2/auth/account?fields=Uid&apikey=canary-key");
    assert_eq!(request.header("authorization"), Some("Bearer canary-token"));
    assert!(!format!("{:?}", request.headers).contains(SECRET));
}

#[tokio::test]
async fn a_token_without_an_owner_is_refused_and_a_strange_answer_is_unavailable() {
    for code in [905, 906, 2024, 1055] {
        let vendor = Vendor::new([json_reply(403, &json!({"ErrorCode": code}))]).await;
        assert_eq!(vendor.client().identify(&token()).await.unwrap_err().class(), "refused", "{code}");
    }
    for (body, class) in [
        (json!({}), "unavailable"),
        (json!({"Uid": null}), "unavailable"),
        (json!({"Uid": ""}), "unavailable"),
        (json!([]), "unavailable"),
        (json!({"Uid": "a/b"}), "refused"),
    ] {
        let vendor = Vendor::new([ok(&body)]).await;
        assert_eq!(vendor.client().identify(&token()).await.unwrap_err().class(), class, "{body}");
    }
}

#[tokio::test]
async fn traits_keep_roles_domains_and_custom_fields_and_nothing_else() {
    let vendor = Vendor::new([ok(&json!({
        "Uid": "ann", "Roles": ["teacher", "Editor"], "FirstName": "Ann",
        "Email": [{"Type": "Primary", "Value": "ann@Example.COM"}, {"Value": "a@b@school.example"},
                  {"Value": "x@example.com"},
                  {"Value": null}, {"Type": "Other"}, {"Value": "nobody"}, {"Value": "nobody@"}, "ann@plain.example", null],
        "CustomFields": {"Plan": "gold", "Seats": 3, "Vip": true, "Empty": "", "Gone": null}
    }))])
    .await;

    let traits = vendor.client().traits(&ann()).await.unwrap();

    assert_eq!(traits.roles, ["teacher", "Editor"]);
    assert_eq!(traits.email_domains, ["example.com", "school.example", "plain.example"]);
    let fields: Vec<_> = traits.custom_fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(fields, [("Empty", ""), ("Plan", "gold"), ("Seats", "3"), ("Vip", "true")]);
    let [request] = vendor.seen().try_into().ok().unwrap();
    assert_eq!(
        request.uri,
        "/identity/v2/manage/account/ann?fields=Uid%2CRoles%2CCustomFields%2CEmail%2CSessionsLimit"
    );
    assert_eq!(request.header("x-loginradius-apisecret"), Some(SECRET));
}

#[tokio::test]
async fn a_limit_of_the_vendors_own_is_a_positive_number_and_anything_else_is_no_failure() {
    for (limit, read) in [
        (json!(3), Some(3)),
        (json!("3"), Some(3)),
        (json!(0), None),
        (json!(null), None),
        (json!(-1), None),
        (json!(1.5), None),
        (json!({"Limit": 3}), None),
        (json!("none"), None),
    ] {
        let profile = json!({"Uid": "ann", "Roles": null, "SessionsLimit": limit});
        assert_eq!(traits([ok(&profile)]).await.unwrap().sessions_limit, read, "{limit}");
    }
}

#[tokio::test]
async fn roles_are_asked_for_separately_only_where_the_profile_has_no_such_key() {
    for body in
        [json!({"Uid": "ann", "Roles": null}), json!({"uid": "ann", "roles": [], "Email": null, "CustomFields": null})]
    {
        assert_eq!(traits([ok(&body)]).await.unwrap(), UserTraits::default(), "{body}");
    }
    let vendor = Vendor::new([ok(&json!({"Uid": "ann"})), ok(&json!({"Roles": ["Editor"]}))]).await;
    let config = LoginRadiusConfig { credentials_in: CredentialsIn::Query, ..vendor.config() };

    let traits = LoginRadius::new(config).unwrap().traits(&ann()).await.unwrap();

    assert_eq!(traits.roles, ["Editor"]);
    let [_, request] = vendor.seen().try_into().ok().unwrap();
    assert_eq!(request.uri, "/identity/v2/manage/account/ann/role?apikey=canary-key&apisecret=canary-secret");
}

#[tokio::test]
async fn a_profile_that_cannot_be_trusted_is_an_error_and_never_a_user_without_roles() {
    for body in ["{}", "[]", "null", "", "<html>", r#"{"Uid":"ann","Roles":"teacher"}"#, r#"{"Roles":[]}"#] {
        assert_eq!(traits([reply(200, body)]).await.unwrap_err().class(), "unavailable", "{body}");
    }
    for unreadable in [
        json!({"Roles": {"teacher": true}}),
        json!({"Roles": ["teacher", 5]}),
        json!({"Roles": [{"Name": "teacher"}]}),
        json!({"Email": "ann@school.example"}),
        json!({"Email": {"Value": "ann@school.example"}}),
        json!({"Email": [["ann@school.example"]]}),
        json!({"Email": [{"Value": 5}]}),
        json!({"CustomFields": "gold"}),
        json!({"CustomFields": [{"Plan": "gold"}]}),
        json!({"CustomFields": {"Plan": ["gold"]}}),
        json!({"CustomFields": {"Plan": {"Name": "gold"}}}),
    ] {
        let mut profile = json!({"Uid": "ann", "Roles": null});
        profile.as_object_mut().unwrap().extend(unreadable.as_object().unwrap().clone());
        assert_eq!(traits([ok(&profile)]).await.unwrap_err().class(), "unavailable", "{profile}");
    }
    for (second, class) in [
        (ok(&json!({})), "unavailable"),
        (ok(&json!({"Roles": [5]})), "unavailable"),
        (reply(503, ""), "unavailable"),
        (json_reply(403, &json!({"ErrorCode": 938})), "user_unknown"),
        (json_reply(403, &json!({"ErrorCode": 1143})), "unauthorized"),
    ] {
        assert_eq!(traits([ok(&json!({"Uid": "ann"})), second]).await.unwrap_err().class(), class);
    }
}

#[tokio::test]
async fn the_profile_of_another_user_chooses_nobodys_policy() {
    let other = json!({"Uid": "bob", "Roles": [], "Email": [], "CustomFields": {}});
    assert_eq!(traits([ok(&other)]).await.unwrap_err().class(), "unavailable");
    let own = json!({"Uid": "ANN", "Roles": [], "Email": [], "CustomFields": {}});
    assert_eq!(traits([ok(&own)]).await.unwrap(), UserTraits::default());
}
