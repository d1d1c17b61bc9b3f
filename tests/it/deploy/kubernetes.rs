//! The Kubernetes manifests: selectors meet labels, ports meet listeners, the configuration loads from what is mounted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use soloist::config::Config;
use soloist::model::TenantId;
use soloist::telemetry::Metrics;
use tempfile::TempDir;

use super::{configured, entries, image, is_understood, list, root, text, word, words, yaml};
use crate::support::service::Service;
use crate::support::soon;

/// All manifests, by kind and name.
fn manifests() -> BTreeMap<(String, String), Value> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("deploy/kubernetes")).unwrap() {
        let path = entry.unwrap().path();
        for manifest in yaml(path.strip_prefix(root()).unwrap().to_str().unwrap()) {
            let name = |value: &Value| word(value).to_owned();
            let key = (name(&manifest["kind"]), name(&manifest["metadata"]["name"]));
            assert!(all.insert(key.clone(), manifest).is_none(), "{key:?} is there twice");
        }
    }
    all
}

fn of_kind(kind: &str) -> Vec<Value> {
    manifests().into_iter().filter(|((of, _), _)| of == kind).map(|(_, manifest)| manifest).collect()
}

/// What runs pods: one workload a role.
fn workloads() -> Vec<Value> {
    ["StatefulSet", "Deployment"].into_iter().flat_map(of_kind).collect()
}

fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

fn container(workload: &Value) -> &Value {
    &pod(workload)["containers"][0]
}

fn labels(workload: &Value) -> &Value {
    &workload["spec"]["template"]["metadata"]["labels"]
}

/// Whether a selector of labels chooses them.
fn chooses(selector: &Value, labels: &Value) -> bool {
    let exact = entries(selector).filter(|(key, _)| !key.starts_with("match")).chain(entries(&selector["matchLabels"]));
    let listed = |expression: &Value| {
        assert_eq!(expression["operator"], "In");
        list(&expression["values"]).any(|value| *value == labels[word(&expression["key"])])
    };
    exact.into_iter().all(|(key, value)| labels[key] == *value) && list(&selector["matchExpressions"]).all(listed)
}

/// Writes into a folder what a pod sees beneath `/etc/soloist`; secrets have what a broker's URL may look like.
fn mounted(workload: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let volume = list(&pod(workload)["volumes"]).find(|volume| volume["name"] == "config").unwrap();
    for source in list(&volume["projected"]["sources"]) {
        for item in list(&source["secret"]["items"]) {
            write(word(&item["path"]), "amqps://fake:fake@rabbitmq:5671\n");
        }
        if let Some(name) = source["configMap"]["name"].as_str() {
            for (file, content) in entries(&manifests()[&("ConfigMap".to_owned(), name.to_owned())]["data"]) {
                write(file, &word(content).replace("/etc/soloist", folder.path().to_str().unwrap()));
            }
        }
    }
    folder
}

fn config(workload: &Value) -> Config {
    let folder = mounted(workload);
    let [variable]: [&Value; 1] = list(&container(workload)["env"]).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(variable["name"], "SOLOIST_CONFIG");
    let file = Path::new(word(&variable["value"])).strip_prefix("/etc/soloist").unwrap();
    configured(Some(folder.path().join(file)), BTreeMap::new())
}

fn mount<'a>(workload: &'a Value, name: &str) -> Option<&'a str> {
    let mount = list(&container(workload)["volumeMounts"]).find(|mount| mount["name"] == name);
    mount.map(|mount| word(&mount["mountPath"]))
}

#[test]
fn every_manifest_is_of_a_kind_and_version_that_exists_and_of_no_namespace() {
    let versions = [
        ("ConfigMap", "v1"),
        ("Deployment", "apps/v1"),
        ("NetworkPolicy", "networking.k8s.io/v1"),
        ("PodDisruptionBudget", "policy/v1"),
        ("ScaledObject", "keda.sh/v1alpha1"),
        ("Service", "v1"),
        ("StatefulSet", "apps/v1"),
    ];
    let all = manifests();
    for ((kind, name), manifest) in &all {
        assert!(versions.contains(&(kind.as_str(), word(&manifest["apiVersion"]))), "{kind} {name}");
        assert!(manifest["metadata"]["namespace"].is_null(), "{kind} {name}");
        assert_eq!(manifest["metadata"]["labels"]["app.kubernetes.io/name"], "soloist", "{kind} {name}");
    }
    let kinds: BTreeSet<&str> = all.keys().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, versions.into_iter().map(|(kind, _)| kind).collect::<BTreeSet<_>>());
}

#[tokio::test]
async fn each_role_has_one_workload_which_runs_our_image_with_a_command_that_is_understood() {
    let mut roles = Vec::new();
    for workload in workloads() {
        let container = container(&workload);
        assert_eq!(container["image"], image());
        let args = words(&container["args"]);
        let role = super::after(&args, "--role").unwrap();
        assert_eq!(workload["metadata"]["name"], format!("soloist-{role}"));
        assert_eq!(labels(&workload)["app.kubernetes.io/component"], role);
        is_understood(&args).await;
        roles.push(role.to_owned());
    }
    roles.sort();
    assert_eq!(roles, ["control", "webhook", "worker"]);
}

#[test]
fn every_configuration_loads_and_its_listeners_are_the_ports() {
    for workload in workloads() {
        let (config, role) = (config(&workload), word(&labels(&workload)["app.kubernetes.io/component"]));
        let ports: BTreeMap<&str, u64> = list(&container(&workload)["ports"])
            .map(|port| (word(&port["name"]), port["containerPort"].as_u64().unwrap()))
            .collect();
        assert_eq!(ports["private"], u64::from(config.admin.listen.port()), "{role}");
        let public = (role == "webhook").then(|| u64::from(config.webhook.listen.port()));
        assert_eq!(ports.get("public").copied(), public, "{role}");
        let apps = config.api.listen.filter(|_| role == "control");
        assert!(apps.is_none_or(|addr| addr.ip().is_unspecified()));
        assert_eq!(ports.get("apps").copied(), apps.map(|addr| u64::from(addr.port())), "{role}");
        assert!(config.admin.listen.ip().is_unspecified() && config.webhook.listen.ip().is_unspecified());
        assert_eq!(mount(&workload, "data"), config.data_dir.to_str(), "{role}");
        // The broker's account is the role's own.
        let volumes = pod(&workload)["volumes"].to_string();
        assert_eq!(volumes.matches("soloist-broker-").count(), 1, "{role}");
        assert!(volumes.contains(&format!("soloist-broker-{role}")), "{role}");
    }
}

#[test]
fn what_must_outlive_a_pod_has_a_volume_claim() {
    let sets = of_kind("StatefulSet");
    let names: BTreeSet<&str> = sets.iter().map(|set| word(&set["metadata"]["name"])).collect();
    assert_eq!(names, BTreeSet::from(["soloist-control", "soloist-webhook"]));
    for set in &sets {
        assert_eq!(set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"], "data", "{}", set["metadata"]);
        assert_eq!(set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"], "Retain");
    }
}

#[test]
fn a_pod_that_stops_has_the_time_that_it_needs() {
    for workload in workloads() {
        let grace = pod(&workload)["terminationGracePeriodSeconds"].as_u64().unwrap();
        let before = words(&container(&workload)["lifecycle"]["preStop"]["exec"]["command"]);
        let before: u64 = before.last().map_or(0, |seconds| seconds.parse().unwrap());
        assert!(grace > before + config(&workload).worker.drain_timeout.as_secs(), "{}", workload["metadata"]);
    }
}

#[tokio::test]
async fn every_path_that_is_asked_for_exists() {
    let service = Service::start().await;
    let mut urls = BTreeSet::from([format!("{}/_sandbox", service.sandbox.url())]);
    for workload in workloads() {
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let get = &container(&workload)[probe]["httpGet"];
            let port = list(&container(&workload)["ports"]).any(|port| port["name"] == get["port"]);
            assert!(port && get["port"] == "private", "{get}");
            urls.insert(format!("{}{}", service.admin_url, word(&get["path"])));
        }
    }
    assert_eq!(urls.len(), 3, "{urls:?}");
    assert!(text("docker-compose.yml").contains("/_sandbox\""));
    for url in urls {
        assert_eq!(soon(&url, service.client.get(&url).send()).await.unwrap().status(), 200, "{url}");
    }
    service.stop().await;
}

#[test]
fn no_pod_is_root_or_can_write_outside_its_volumes() {
    let dockerfile = text("deploy/Dockerfile");
    for workload in workloads() {
        let (pod, container) = (&pod(&workload)["securityContext"], &container(&workload)["securityContext"]);
        assert_eq!(pod["runAsNonRoot"], true);
        assert!(dockerfile.contains(&format!("USER {0}:{0}\n", pod["runAsUser"])), "{pod}");
        assert_eq!(pod["fsGroup"], pod["runAsUser"]);
        assert_eq!(container["readOnlyRootFilesystem"], true);
        assert_eq!(container["allowPrivilegeEscalation"], false);
        assert_eq!(words(&container["capabilities"]["drop"]), ["ALL"]);
        assert!(mount(&workload, "tmp") == Some("/tmp"), "something must be writable for temporary files");
    }
}

#[test]
fn selectors_choose_pods_that_are_there() {
    let workloads = workloads();
    for workload in &workloads {
        assert!(chooses(&workload["spec"]["selector"], labels(workload)), "{}", workload["metadata"]);
        let budgets = of_kind("PodDisruptionBudget");
        let of_it = budgets.iter().filter(|budget| chooses(&budget["spec"]["selector"], labels(workload)));
        assert_eq!(of_it.count(), 1, "{}", workload["metadata"]);
        if let Some(name) = workload["spec"]["serviceName"].as_str() {
            let service = &manifests()[&("Service".to_owned(), name.to_owned())];
            assert_eq!(service["spec"]["clusterIP"], "None", "{name}");
            assert!(chooses(&service["spec"]["selector"], labels(workload)), "{name}");
        }
    }
    for service in of_kind("Service") {
        let pods = workloads.iter().filter(|workload| chooses(&service["spec"]["selector"], labels(workload)));
        let mut ports = pods.flat_map(|workload| list(&container(workload)["ports"]));
        assert!(ports.any(|port| port["name"] == service["spec"]["ports"][0]["targetPort"]), "{}", service["metadata"]);
    }
}

/// The ports that policies of a direction allow to a workload.
fn allowed(workload: &Value, direction: &str) -> BTreeSet<u64> {
    let policies = of_kind("NetworkPolicy");
    let of_it = policies.iter().filter(|policy| chooses(&policy["spec"]["podSelector"], labels(workload)));
    let rules = of_it.flat_map(|policy| list(&policy["spec"][direction]));
    rules.flat_map(|rule| list(&rule["ports"])).filter_map(|port| port["port"].as_u64()).collect()
}

#[test]
fn all_traffic_is_refused_but_what_each_role_needs() {
    let closed = of_kind("NetworkPolicy").into_iter().any(|policy| {
        let spec = &policy["spec"];
        words(&spec["policyTypes"]) == ["Ingress", "Egress"] && spec["ingress"].is_null() && spec["egress"].is_null()
    });
    assert!(closed, "nothing is refused");
    for workload in workloads() {
        let (config, role) = (config(&workload), word(&labels(&workload)["app.kubernetes.io/component"]));
        let mut ingress = BTreeSet::from([u64::from(config.admin.listen.port())]);
        let mut egress = BTreeSet::from([53, 5671]);
        match role {
            "webhook" => drop(ingress.insert(u64::from(config.webhook.listen.port()))),
            "control" => drop(ingress.insert(u64::from(config.api.listen.unwrap().port()))),
            _ => {}
        }
        if role != "webhook" {
            egress.insert(443);
        }
        assert_eq!(allowed(&workload, "ingress"), ingress, "{role}");
        assert_eq!(allowed(&workload, "egress"), egress, "{role}");
    }
}

#[test]
fn the_workers_are_scaled_up_to_a_maximum_by_metrics_that_exist() {
    let [scaled]: [Value; 1] = of_kind("ScaledObject").try_into().unwrap();
    let (spec, name) = (&scaled["spec"], word(&scaled["spec"]["scaleTargetRef"]["name"]).to_owned());
    let worker = &manifests()[&("Deployment".to_owned(), name)];
    assert!(worker["spec"]["replicas"].is_null(), "two would set the number of workers");
    assert!(spec["maxReplicaCount"].as_u64() > spec["minReplicaCount"].as_u64(), "{spec}");
    let [trigger]: [&Value; 1] = list(&spec["triggers"]).collect::<Vec<_>>().try_into().unwrap();
    let query = word(&trigger["metadata"]["query"]);
    assert!(query.contains(r#"soloist_queue_messages{lane="logins", state="ready"}"#), "{query}");
    for paused in ["soloist_broker_up == 1", "unless on (tenant)", "(soloist_tenant_paused) == 1"] {
        assert!(query.contains(paused), "{query}");
    }
    let metrics = Metrics::new();
    metrics.announce(&TenantId::default_tenant());
    let rendered = metrics.render();
    for series in [
        r#"soloist_queue_messages{tenant="default",lane="logins",state="ready"}"#,
        "soloist_tenant_paused{tenant=",
        "soloist_broker_up ",
    ] {
        assert!(rendered.contains(series), "{series}");
    }
}
