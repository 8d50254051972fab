//! CEL rules that more than one kind has.

use kube::core::Rule;

use crate::contract::env;

/// A required or defaulted field of the spec can't change once the job has started.
pub(crate) fn frozen_field(field: &str) -> Rule {
    frozen(field, &format!("self.spec.{field} == oldSelf.spec.{field}"))
}

/// An optional block of the spec can't change, come or go once the job has started.
pub(crate) fn frozen_block(field: &str) -> Rule {
    frozen(field, &unchanged("self.spec", "oldSelf.spec", field))
}

/// The controller of a job can't change, as in batch/v1: two would work on it at once.
pub(crate) fn managed_by_is_immutable() -> Rule {
    Rule::new(unchanged("self", "oldSelf", "managedBy"))
        .message("managedBy can't change: delete the job and create it anew")
        .field_path(".managedBy")
}

/// Exit codes of Trainyard's own trainer have a meaning that can't be changed.
pub(crate) fn exit_codes_of_a_custom_image() -> Rule {
    Rule::new("!has(self.runPolicy.exitCodes) || has(self.infrastructure.image)")
        .message("exitCodes are those of a custom image: give infrastructure.image too, or leave them out")
        .field_path(".runPolicy.exitCodes")
}

/// Variables that Trainyard sets can't be given in `env`; its settings can.
pub(crate) fn free_variables() -> Rule {
    let torchrun = [
        env::RANK,
        env::WORLD_SIZE,
        env::LOCAL_RANK,
        env::LOCAL_WORLD_SIZE,
        env::GROUP_RANK,
        env::MASTER_ADDR,
        env::MASTER_PORT,
    ];
    let list = |names: &[&str]| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let free = format!("(!e.name.startsWith('TRAINYARD_') || e.name in [{}])", list(&env::SETTINGS));
    let settings = env::SETTINGS.join(", ");
    Rule::new(format!("!has(self.env) || self.env.all(e, {free} && !(e.name in [{}]))", list(&torchrun)))
        .message(
            format!(
                "RANK, WORLD_SIZE, MASTER_ADDR and their like, and what starts with TRAINYARD_, are set by Trainyard: \
                 leave them out. Yours to set are {settings}"
            )
            .as_str(),
        )
        .field_path(".env")
}

/// Variables that the launcher of Trainyard's own trainer reads can't be given in `env`. A custom image's torchrun may be told.
pub(crate) fn free_launcher() -> Rule {
    let free = "!e.name.startsWith('PET_') && !e.name.startsWith('TORCHELASTIC_')";
    Rule::new(format!("has(self.image) || !has(self.pod) || !has(self.pod.env) || self.pod.env.all(e, {free})"))
        .message(
            "what starts with PET_ or TORCHELASTIC_ is set by Trainyard: leave it out, and give nodes and gpusPerNode",
        )
        .field_path(".pod.env")
}

fn frozen(field: &str, unchanged: &str) -> Rule {
    let not_started = "!has(oldSelf.status) || !has(oldSelf.status.attempt) || oldSelf.status.attempt == 0";
    Rule::new(format!("{not_started} || ({unchanged})"))
        .message(
            format!(
                "{field} can't change once the job has started; runPolicy can. For another {field}, create another job"
            )
            .as_str(),
        )
        .field_path(format!(".spec.{field}"))
}

fn unchanged(new: &str, old: &str, field: &str) -> String {
    format!("has({new}.{field}) == has({old}.{field}) && (!has({new}.{field}) || {new}.{field} == {old}.{field})")
}
