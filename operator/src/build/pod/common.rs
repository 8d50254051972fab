//! What the pods of every kind have in common: places by the gate, security, volumes, and what was asked for besides.

use std::collections::BTreeMap;

use crds::contract::env;
use crds::infrastructure::{Device, Infrastructure};
use crds::open::Open;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, ObjectFieldSelector, PodSecurityContext, PodSpec,
    ResourceRequirements, SeccompProfile, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::CONTAINER;
use super::volumes::{self, Claim};
use crate::placement::Placed;

/// User and group of the trainer's image, as distroless images have them.
const NONROOT: i64 = 65_532;
/// Seconds between the end of the trainer's patience and that of the kubelet: the reason is still told.
pub(in crate::build) const LAST_WORDS_SECONDS: u32 = 10;
/// What tells NVIDIA's container toolkit which GPUs to show.
const NVIDIA_VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";

/// What the pods of every kind rest on.
#[derive(Clone, Copy, Debug)]
pub(in crate::build) struct Common<'a> {
    /// Where they run, as it was asked for.
    pub(in crate::build) infrastructure: &'a Infrastructure,
    /// Where that is, as it was decided.
    pub(in crate::build) placed: &'a Placed,
    /// The claims to mount.
    pub(in crate::build) claims: &'a [Claim],
}

impl Common<'_> {
    /// A pod with this one container.
    pub(in crate::build) fn spec(&self, container: Container) -> PodSpec {
        let wished = &self.infrastructure.pod;
        PodSpec {
            affinity: self.placed.affinity.clone(),
            automount_service_account_token: Some(false),
            containers: vec![container],
            init_containers: Some(self.init_containers()).filter(|containers| !containers.is_empty()),
            topology_spread_constraints: Some(given(&wished.topology_spread_constraints))
                .filter(|constraints| !constraints.is_empty()),
            enable_service_links: Some(false),
            host_network: wished.host_network.then_some(true),
            dns_policy: wished.host_network.then(|| "ClusterFirstWithHostNet".to_owned()),
            image_pull_secrets: Some(wished.image_pull_secrets.clone()).filter(|secrets| !secrets.is_empty()),
            resource_claims: Some(wished.resource_claims.clone()).filter(|claims| !claims.is_empty()),
            node_selector: Some(wished.node_selector.clone()).filter(|labels| !labels.is_empty()),
            priority_class_name: wished.priority_class_name.clone(),
            runtime_class_name: wished.runtime_class_name.clone(),
            scheduler_name: wished.scheduler_name.clone(),
            security_context: Some(self.pod_security()),
            service_account_name: wished.service_account_name.clone(),
            termination_grace_period_seconds: Some(i64::from(wished.termination_grace_period_seconds)),
            tolerations: Some(self.placed.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
            volumes: Some(self.volumes()),
            ..PodSpec::default()
        }
    }

    /// What is asked for to run before it. The pod's own security would do but for what only a container can say.
    fn init_containers(&self) -> Vec<Container> {
        let mut containers = given(&self.infrastructure.pod.init_containers);
        for container in &mut containers {
            container.security_context.get_or_insert_with(|| SecurityContext {
                allow_privilege_escalation: Some(false),
                capabilities: Some(none()),
                ..SecurityContext::default()
            });
        }
        containers
    }

    /// The container: our trainer with these arguments, or the custom image with its own.
    pub(in crate::build) fn container(&self, args: &[&str], env: Vec<EnvVar>, ports: Vec<ContainerPort>) -> Container {
        let own = self.infrastructure;
        let custom = own.image.is_some();
        let ours = || args.iter().map(|word| (*word).to_owned()).collect();
        Container {
            name: CONTAINER.to_owned(),
            image: Some(self.placed.image.clone()),
            image_pull_policy: own.pod.image_pull_policy.map(|policy| policy.name().to_owned()),
            command: own.command.clone(),
            args: if custom { own.args.clone() } else { Some(ours()) },
            env: Some(env),
            env_from: Some(own.pod.env_from.clone()).filter(|sources| !sources.is_empty()),
            ports: Some(ports),
            resources: Some(self.resources()),
            security_context: Some(self.container_security()),
            // A custom image that says nothing is quoted by the end of its log.
            termination_message_policy: custom.then(|| "FallbackToLogsOnError".to_owned()),
            volume_mounts: Some(self.volume_mounts()),
            ..Container::default()
        }
    }

    /// These variables and what every pod is told; what was asked for takes the place of ours.
    pub(in crate::build) fn environment(&self, mut variables: BTreeMap<&'static str, String>) -> Vec<EnvVar> {
        let grace = self.infrastructure.pod.termination_grace_period_seconds;
        variables.insert(env::STOP_SECONDS, grace.saturating_sub(LAST_WORDS_SECONDS).max(1).to_string());
        if self.placed.device == Device::Cpu {
            // Without this a pod that asks for no GPU sees all of them on some nodes.
            variables.insert(NVIDIA_VISIBLE_DEVICES, "void".to_owned());
        }
        if self.infrastructure.image.is_none() {
            // An image of one's own may have something in its home.
            variables.extend(volumes::caches());
        }
        let node = EnvVar {
            name: env::NODE_NAME.to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector { field_path: "spec.nodeName".to_owned(), api_version: None }),
                ..EnvVarSource::default()
            }),
            value: None,
        };
        let asked = || self.infrastructure.pod.env.iter().filter_map(Open::get);
        let ours = variables
            .into_iter()
            .filter(|(name, _)| asked().all(|asked| asked.name != *name))
            .map(|(name, value)| EnvVar { name: name.to_owned(), value: Some(value), value_from: None });
        // What is asked for comes last: it may refer to ours by $(NAME).
        ours.chain([node]).chain(asked().cloned()).collect()
    }

    fn resources(&self) -> ResourceRequirements {
        let mut resources = self.infrastructure.pod.resources.clone().unwrap_or_default();
        if let Some((name, count)) = &self.placed.resource {
            resources.limits.get_or_insert_default().insert(name.clone(), Quantity(count.to_string()));
        }
        resources
    }

    /// What is asked for over our own. A custom image may need to run as the user that it was made for.
    fn pod_security(&self) -> PodSecurityContext {
        let custom = self.infrastructure.image.is_some();
        let asked =
            self.infrastructure.pod.pod_security_context.as_ref().and_then(Open::get).cloned().unwrap_or_default();
        PodSecurityContext {
            run_as_non_root: asked.run_as_non_root.or((!custom).then_some(true)),
            run_as_user: asked.run_as_user.or((!custom).then_some(NONROOT)),
            run_as_group: asked.run_as_group.or((!custom).then_some(NONROOT)),
            fs_group: asked.fs_group.or(Some(NONROOT)),
            fs_group_change_policy: asked.fs_group_change_policy.or_else(|| Some("OnRootMismatch".to_owned())),
            seccomp_profile: asked.seccomp_profile.or_else(|| Some(runtime_default())),
            ..asked
        }
    }

    fn container_security(&self) -> SecurityContext {
        let custom = self.infrastructure.image.is_some();
        let asked = self.infrastructure.pod.security_context.as_ref().and_then(Open::get).cloned().unwrap_or_default();
        SecurityContext {
            allow_privilege_escalation: asked.allow_privilege_escalation.or(Some(false)),
            // Who adds one still drops the others.
            capabilities: Some(
                asked.capabilities.map_or_else(none, |asked| Capabilities {
                    drop: asked.drop.or_else(|| none().drop),
                    add: asked.add,
                }),
            ),
            read_only_root_filesystem: asked.read_only_root_filesystem.or((!custom).then_some(true)),
            ..asked
        }
    }
}

/// What fits its type. Of a job with what doesn't no pod is made.
fn given<T: Clone>(list: &[Open<T>]) -> Vec<T> {
    list.iter().filter_map(Open::get).cloned().collect()
}

fn none() -> Capabilities {
    Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }
}

fn runtime_default() -> SeccompProfile {
    SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_capability_that_is_added_gives_back_no_other() {
        let dropped = |asked: serde_json::Value| {
            let wished = json!({"pod": {"securityContext": {"capabilities": asked}}});
            let infrastructure: Infrastructure = serde_json::from_value(wished).expect("an infrastructure");
            let placed = Placed::on_cpus();
            let common = Common { infrastructure: &infrastructure, placed: &placed, claims: &[] };
            json!(common.container_security().capabilities)
        };
        assert_eq!(dropped(json!({"add": ["IPC_LOCK"]})), json!({"add": ["IPC_LOCK"], "drop": ["ALL"]}));
        assert_eq!(dropped(json!({"drop": ["NET_RAW"]})), json!({"drop": ["NET_RAW"]}), "as it was asked for");
        assert_eq!(dropped(json!({})), json!({"drop": ["ALL"]}));
    }

    #[test]
    fn what_is_asked_for_besides_is_in_the_pod() {
        let spread = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        let privileged = json!({"privileged": true});
        let wished = json!({"pod": {
            "imagePullPolicy": "Always",
            "topologySpreadConstraints": [spread],
            "initContainers": [
                {"name": "fetch", "image": "fetch:1"},
                {"name": "tune", "image": "tune:1", "securityContext": privileged, "restartPolicy": "Always"},
            ],
        }});
        let infrastructure: Infrastructure = serde_json::from_value(wished).expect("an infrastructure");
        let placed = Placed { image: "trainer:1".to_owned(), ..Placed::on_cpus() };
        let common = Common { infrastructure: &infrastructure, placed: &placed, claims: &[] };
        let spec = json!(common.spec(common.container(&[], Vec::new(), Vec::new())));
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(spec["topologySpreadConstraints"], json!([spread]));
        let safe = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        assert_eq!(
            spec["initContainers"],
            json!([
                {"name": "fetch", "image": "fetch:1", "securityContext": safe},
                {"name": "tune", "image": "tune:1", "securityContext": privileged, "restartPolicy": "Always"},
            ])
        );
    }
}
