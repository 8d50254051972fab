//! A container that does not start: whose fault that is, and whether waiting may mend it.
//!
//! The reasons are the kubelet's. What its container runtime says stands in the message alone, which is read for words.

use crds::contract::Cause;
use jiff::Timestamp;

use crate::observe::End;

/// What keeps a container from starting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unstarted {
    /// Whose fault it is.
    pub(super) cause: Cause,
    /// What went wrong: a sentence.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: &'static str,
    /// Whether waiting may mend it.
    pub(super) may_pass: bool,
}

/// Reasons of a container's end that are no end of a process: none was ever there.
pub(super) const NEVER_RAN: [&str; 2] = ["StartError", "ContainerCannotRun"];

const IMAGE: &str = "check the image's name, pod.imagePullSecrets, and whether the node reaches the registry";
const ENVIRONMENT: &str = "create what it names, or mend pod.env and pod.envFrom";
const COMMAND: &str = "mend infrastructure.command, or the image";
const NODE: &str = "look at the node's container runtime, and at what lets containers use its GPUs";

impl Unstarted {
    /// The end of a member that it comes to: no process was there, and so there is no exit code.
    pub(super) fn end(self, at: Timestamp) -> End {
        let Unstarted { cause, message, hint, .. } = self;
        End { cause, exit_code: None, message, hint: hint.to_owned(), ..End::from_exit(255, None, at) }
    }
}

/// What a reason that is not routine and its message come to; `None` where nothing is known but to wait.
pub(super) fn of(reason: &str, said: &str) -> Option<Unstarted> {
    let message = if said.is_empty() { reason.to_owned() } else { format!("{reason}: {said}") };
    let known = |cause, hint, may_pass| Some(Unstarted { cause, message: message.clone(), hint, may_pass });
    match reason {
        "InvalidImageName" | "ErrImageNeverPull" => known(Cause::BadSpec, IMAGE, false),
        "ImagePullBackOff" | "ErrImagePull" => known(Cause::Storage, IMAGE, true),
        "CreateContainerConfigError" if names_what_is_missing(said) => Some(Unstarted {
            cause: Cause::BadSpec,
            message: format!("the pod names what is not there: {said}"),
            hint: ENVIRONMENT,
            may_pass: true,
        }),
        "CreateContainerConfigError" => known(Cause::OtherRetryable, "", true),
        "CreateContainerError" | "RunContainerError" | "StartError" | "ContainerCannotRun" => {
            let (cause, hint) = if is_the_command(said) { (Cause::BadSpec, COMMAND) } else { (Cause::NodeFault, NODE) };
            known(cause, hint, true)
        }
        _ => None,
    }
}

/// A Secret, a ConfigMap or a key of one.
fn names_what_is_missing(said: &str) -> bool {
    let said = said.to_lowercase();
    ["not found", "couldn't find key", "non-existent"].iter().any(|words| said.contains(words))
}

/// Whether the program of the container can't be run. A program of the node's own that is missing, such as a hook of NVIDIA's,
/// is told in nearly the same words.
fn is_the_command(said: &str) -> bool {
    let said = said.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    let cannot_run =
        says(&["executable file not found", "executable file `", "no such file or directory", "permission denied"]);
    // As runc says it, and as crun does.
    let of_runc = says(&["container process: exec:", "container process caused: exec:"]);
    let of_others = says(&["executable file", "open executable"])
        && !says(&["nvidia", "cdi", "nvml", "unable to retrieve oci runtime error", "hook"]);
    cannot_run && (of_runc || of_others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_not_there_is_told_from_a_node_that_can_start_nothing() {
        let runc = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: \
                    unable to start container process: ";
        let table = [
            (format!("{runc}exec: \"pyhton\": executable file not found in $PATH: unknown"), Cause::BadSpec),
            (format!("{runc}exec: \"/app/train\": stat /app/train: no such file or directory: unknown"), Cause::BadSpec),
            (format!("{runc}exec: \"/opt/nvidia/entry.sh\": permission denied: unknown"), Cause::BadSpec),
            ("container create failed: executable file `pyhton` not found in $PATH: No such file or directory".into(), Cause::BadSpec),
            ("exec: \"pyhton\": executable file not found in $PATH".into(), Cause::BadSpec),
            (
                format!("{runc}error during container init: error running prestart hook #0: exit status 1, stderr: \
                    nvidia-container-cli: initialization error: load library failed: libnvidia-ml.so.1: cannot open shared \
                    object file: no such file or directory"),
                Cause::NodeFault,
            ),
            ("error running hook: exec: \"nvidia-container-runtime-hook\": executable file not found in $PATH".into(), Cause::NodeFault),
            ("failed to inject CDI devices: unresolvable CDI devices nvidia.com/gpu=0".into(), Cause::NodeFault),
            (
                "OCI runtime create failed: unable to retrieve OCI runtime error: exec: \"runc\": executable file not found in $PATH".into(),
                Cause::NodeFault,
            ),
            ("error mounting \"/var/lib/kubelet/pods/x\" to rootfs: no such file or directory".into(), Cause::NodeFault),
            ("context deadline exceeded".into(), Cause::NodeFault),
        ];
        for (said, cause) in table {
            for reason in ["StartError", "ContainerCannotRun", "CreateContainerError", "RunContainerError"] {
                let told = of(reason, &said).expect("it is known");
                assert_eq!((told.cause, told.may_pass), (cause, true), "{reason}: {said}");
                assert!(told.message.contains(&said) && !told.hint.is_empty());
            }
        }
    }

    #[test]
    fn what_the_environment_names_and_is_not_there_is_named() {
        for said in ["secret \"s3\" not found", "configmap \"c\" not found", "couldn't find key k in Secret n/s"] {
            let told = of("CreateContainerConfigError", said).expect("it is known");
            assert_eq!((told.cause, told.may_pass), (Cause::BadSpec, true));
            assert_eq!(told.message, format!("the pod names what is not there: {said}"));
        }
        let busy = of("CreateContainerConfigError", "failed to sync secret cache: timed out").expect("it is known");
        assert_eq!(busy.cause, Cause::OtherRetryable);
        assert_eq!(of("ContainerCreating", ""), None);
    }
}
