//! `trainyard run` against a trainer that ends as planned: what is restarted, what is said, what is left.

use crate::yard::{Yard, lives};
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn a_job_that_completes_prints_its_figure_and_its_model() {
    let yard = Yard::training(&["ok"]);
    let ran = yard.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, "TrainingJob digits is done\n  accuracy   0.9900\n  model      /out/model\n");
    let status = yard.status();
    assert_eq!(
        (&status["phase"], &status["attempt"], &status["failures"]),
        (&json!("Succeeded"), &json!(1), &json!(0))
    );
    assert_eq!(status["model"], json!({"uri": "file:///out/model", "metricName": "accuracy", "metric": 0.99}));
    assert_eq!(status["placement"]["device"], "Cpu");
}

#[test]
fn the_environment_of_a_member_is_that_of_the_contract() {
    let yard = Yard::training(&["ok"]);
    yard.edit("  training:", "  infrastructure: {nodes: 2, processesPerNode: 3, device: Cpu}\n  training:");
    assert_eq!(yard.run(&[]).code, 0);
    let environment = yard.read("environment-1-1");
    let value = |name: &str| {
        let prefix = format!("{name}=");
        environment
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_else(|| panic!("{name} is not set"))
            .to_owned()
    };
    for (name, expected) in [
        ("PET_NNODES", "2"),
        ("PET_NPROC_PER_NODE", "3"),
        ("PET_NODE_RANK", "1"),
        ("PET_MASTER_ADDR", "127.0.0.1"),
        ("TORCHELASTIC_RESTART_COUNT", "0"),
        ("TRAINYARD_PROGRESS_PORT", "0"),
        ("TRAINYARD_PROGRESS_ADDR", "127.0.0.1"),
        ("CUDA_VISIBLE_DEVICES", ""),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    let assignment: serde_json::Value = serde_json::from_str(&value("TRAINYARD_ASSIGNMENT")).unwrap();
    let models = yard.path(".trainyard/volumes/models/digits");
    assert_eq!(assignment["spec"]["output"]["uri"], format!("file://{}", models.display()));
    assert_eq!(
        (&assignment["kind"], &assignment["attempt"], &assignment["member"], &assignment["members"]),
        (&json!("TrainingJob"), &json!(1), &json!(1), &json!(2))
    );
    assert_eq!(yard.read("environment-1-0").lines().filter(|line| line.starts_with("PET_MASTER_PORT=")).count(), 1);
}

#[test]
fn a_member_gets_what_the_manifest_gives_its_pods() {
    let yard = Yard::training(&["ok"]);
    let pod = "pod: {env: [{name: BUCKET, value: a}, {name: PLACE, value: $(BUCKET)/b}, \
               {name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}], envFrom: [{secretRef: {name: s}}]}";
    yard.edit("  training:", &format!("  infrastructure: {{device: Cpu, {pod}}}\n  training:"));
    let ran = yard.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let environment = yard.read("environment-1-0");
    assert!(environment.lines().any(|line| line == "PLACE=a/b"), "{environment}");
    let told = "spec.infrastructure.pod.env[2]: has no effect here: the value of KEY comes from a cluster";
    assert!(ran.err.contains(told), "{ran:?}");
    assert!(ran.err.contains("spec.infrastructure.pod.envFrom[0]: has no effect here"), "{ran:?}");
}

#[test]
fn causes_worth_a_retry_are_retried_and_counted() {
    let yard = Yard::training(&["162", "137", "ok"]);
    let ran = yard.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let status = yard.status();
    assert_eq!((&status["attempt"], &status["restarts"], &status["failures"]), (&json!(3), &json!(2), &json!(2)));
    let causes: Vec<_> =
        status["attempts"].as_array().unwrap().iter().map(|attempt| attempt["cause"].clone()).collect();
    assert_eq!(causes, ["Storage", "OtherRetryable", "Completed"]);
    assert!(
        yard.read(".trainyard/jobs/local.TrainingJob.digits/attempts/2/member-0.log").contains("attempt 2 of member 0")
    );
}

#[test]
fn a_permanent_cause_is_told_with_its_hint_and_the_end_of_the_log() {
    let yard = Yard::training(&["65"]);
    let ran = yard.run(&[]);
    assert_eq!(ran.code, 65, "{ran:?}");
    for part in ["TrainingJob digits failed: BadData: a.png is no image (rank 0). Remove it.", "attempt 1 of member 0"]
    {
        assert!(ran.err.contains(part), "{part:?} is missing in {}", ran.err);
    }
}

#[test]
fn each_exit_code_of_the_trainer_that_ends_the_job_is_our_own() {
    for (code, expected) in [("66", 66), ("69", 69), ("72", 72), ("160", 160), ("5", 1)] {
        let ran = Yard::training(&[code]).run(&[]);
        assert_eq!(ran.code, expected, "exit code {code}: {ran:?}");
    }
    let ran = Yard::training(&["160"]).run(&[]);
    assert!(ran.err.contains("there is no other node to try"), "{ran:?}");
}

#[test]
fn the_limit_of_restarts_ends_the_job() {
    let yard = Yard::training(&["162", "162"]);
    let ran = yard.run(&["--set", "spec.runPolicy.backoffLimit=1"]);
    assert_eq!(ran.code, 162, "{ran:?}");
    assert!(ran.err.contains("all 1 restarts of spec.runPolicy.backoffLimit are spent"), "{ran:?}");
}

#[test]
fn ctrl_c_suspends_and_the_same_command_goes_on() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let yard = Yard::training(&["wait", "ok"]);
        let started = yard.start(&[]);
        yard.wait_for("started-1-0");
        started.signal(signal);
        let ran = started.wait();
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains("a checkpoint is committed at step 42"), "{ran:?}");
        assert!(ran.err.contains("Stopping. Once more kills it at once"), "nothing was heard of a step: {ran:?}");
        assert!(ran.err.contains("run -f job.yaml"), "{ran:?}");
        let status = yard.status();
        assert_eq!((&status["phase"], &status["failures"]), (&json!("Suspended"), &json!(0)));

        let ran = yard.run(&[]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let status = yard.status();
        assert_eq!((&status["attempt"], &status["restarts"], &status["failures"]), (&json!(2), &json!(1), &json!(0)));
        let uid = |name| {
            let environment = yard.read(name);
            environment.split("\"uid\":\"").nth(1).unwrap()[..36].to_owned()
        };
        assert_eq!(uid("environment-1-0"), uid("environment-2-0"), "the UID is that of the job, not of the run");
    }
}

#[test]
fn a_second_ctrl_c_kills() {
    let yard = Yard::training(&["stubborn"]);
    let started = yard.start(&[]);
    let pid = yard.wait_for("started-1-0");
    started.signal(Signal::SIGINT);
    std::thread::sleep(std::time::Duration::from_millis(300));
    started.signal(Signal::SIGINT);
    let ran = started.wait();
    assert_eq!(ran.code, 130, "{ran:?}");
    assert!(!lives(&pid));
}

#[test]
fn a_run_that_is_killed_is_taken_up_without_cost() {
    let yard = Yard::training(&["wait", "ok"]);
    let started = yard.start(&[]);
    let pid = yard.wait_for("started-1-0");
    yard.wait_until_it_runs();
    started.signal(Signal::SIGKILL);
    assert_eq!(started.wait().code, -1);
    // The planned trainer is a script that does not die with its parent as ours does.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
    let ran = yard.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let status = yard.status();
    assert_eq!((&status["attempt"], &status["failures"]), (&json!(2), &json!(0)));
    assert!(status["attempts"][0]["message"].as_str().unwrap().contains("trainyard was ended"), "{status}");
}

#[test]
fn two_runs_of_one_job_at_once_are_refused() {
    let yard = Yard::training(&["wait"]);
    let started = yard.start(&[]);
    yard.wait_for("started-1-0");
    let second = yard.run(&[]);
    assert_eq!(second.code, 75, "{second:?}");
    assert!(
        second.err.contains(&format!("TrainingJob digits is run by the process {} already", started.id())),
        "{second:?}"
    );
    started.signal(Signal::SIGTERM);
    assert_eq!(started.wait().code, 143);
}

#[test]
fn a_finished_job_says_so_and_a_changed_one_is_refused_until_it_starts_over() {
    let yard = Yard::training(&["ok"]);
    assert_eq!(yard.run(&[]).code, 0);
    let again = yard.run(&[]);
    assert_eq!(again.code, 0);
    assert!(again.out.contains("/out/model") && again.out.contains("finished before"), "{again:?}");
    assert_eq!(yard.status()["attempt"], 1);

    let changed = yard.run(&["--set", "spec.training.epochs=3"]);
    assert_eq!(changed.code, 64, "{changed:?}");
    assert!(changed.err.contains("spec.training") && changed.err.contains("--fresh"), "{changed:?}");

    std::fs::create_dir_all(yard.path(".trainyard/volumes/models/digits")).unwrap();
    let fresh = yard.run(&["--set", "spec.training.epochs=3", "--fresh"]);
    assert_eq!(fresh.code, 0, "{fresh:?}");
    assert!(yard.path(".trainyard/jobs/local.TrainingJob.digits.old-1/status.json").is_file());
    assert!(yard.path(".trainyard/volumes/models/digits.old-1").is_dir(), "the output belongs to the old job");
}

#[test]
fn a_failed_job_is_tried_again_when_it_is_run_again() {
    let yard = Yard::training(&["65", "ok"]);
    assert_eq!(yard.run(&[]).code, 65);
    let again = yard.run(&[]);
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.err.contains("has failed before (BadData: a.png is no image"), "{again:?}");
    assert_eq!(yard.status()["attempt"], 2);
}

#[test]
fn a_job_that_failed_before_its_first_step_may_be_changed() {
    let yard = Yard::training(&["66", "ok"]);
    assert_eq!(yard.run(&[]).code, 66);
    let changed = yard.run(&["--set", "spec.training.epochs=3"]);
    assert_eq!(changed.code, 0, "{changed:?}");
}

#[test]
fn data_that_is_not_there_is_told_before_anything_starts() {
    let yard = Yard::training(&["ok"]);
    yard.edit("/data\n", "/dato\n");
    let ran = yard.run(&[]);
    assert_eq!(ran.code, 66, "{ran:?}");
    assert!(ran.err.starts_with("job.yaml:7:10: spec.data.uri: "), "{ran:?}");
    assert!(!yard.path("started-1-0").exists());
}

#[test]
fn a_scoring_job_takes_the_model_of_the_job_before_it_in_the_file() {
    let yard = Yard::training(&["ok"]);
    let data = yard.path("data");
    let scoring = format!(
        "---\napiVersion: trainyard.dev/v1alpha1\nkind: ScoringJob\nmetadata:\n  name: held-out\nspec:\n  model:\n    trainingJob: \
         digits\n  data:\n    uri: file://{}\n  output:\n    uri: pvc://scores\n  shards: 3\n  parallelism: 2\n",
        data.display()
    );
    let before = yard.read("job.yaml");
    yard.write("job.yaml", &scoring);
    let early = yard.run(&[]);
    assert_eq!(early.code, 66, "{early:?}");
    assert!(early.err.contains("the TrainingJob digits was not run here"), "{early:?}");

    yard.write("job.yaml", &(before + &scoring));
    let ran = yard.run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let status = yard.status_of("local.ScoringJob.held-out");
    assert_eq!((&status["phase"], &status["shardsDone"]), (&json!("Succeeded"), &json!(3)));
    let environment = yard.read("environment-1-2");
    assert!(environment.contains(r#""model":{"uri":"file:///out/model"}"#), "{environment}");
    assert!(
        environment.contains("PET_NNODES=1\n") && environment.contains(r#""member":2,"members":3"#),
        "{environment}"
    );
}

#[test]
fn what_only_a_cluster_has_is_refused() {
    let yard = Yard::training(&["ok"]);
    let image = yard.run(&["--set", "spec.infrastructure.image=example.com/trainer:1"]);
    assert_eq!(image.code, 64, "{image:?}");
    assert!(image.err.contains("spec.infrastructure.image: a custom image needs a cluster"), "{image:?}");

    let gpus = yard.run(&["--device", "gpu", "--set", "spec.infrastructure.gpusPerNode=64"]);
    assert_eq!(gpus.code, 69, "{gpus:?}");
    assert!(gpus.err.contains("64 GPUs are asked for"), "{gpus:?}");

    yard.write(
        "job.yaml",
        "apiVersion: trainyard.dev/v1alpha1\nkind: ModelEndpoint\nmetadata: {name: a}\nspec: {model: {trainingJob: digits}}\n",
    );
    let endpoint = yard.run(&[]);
    assert_eq!(endpoint.code, 66, "{endpoint:?}");
    assert!(endpoint.err.contains("the TrainingJob digits was not run here"), "{endpoint:?}");
}

#[test]
fn an_endpoint_is_served_until_a_signal_comes() {
    let yard = Yard::training(&["wait"]);
    let uri = format!("file://{}", yard.path("data").display());
    let spec = format!(
        "{{model: {{uri: \"{uri}\"}}, service: {{port: 39871, grpcPort: 39872}}, authentication: {{bearerToken: {{name: a}}}}}}"
    );
    let head = "apiVersion: trainyard.dev/v1alpha1\nkind: ModelEndpoint\nmetadata: {name: a}\nspec: ";
    yard.write("job.yaml", &format!("{head}{spec}\n"));
    let served = yard.start(&["--device", "Cpu"]);
    let pid = yard.wait_for("started-1-0");
    let environment = yard.read("environment-1-0");
    assert!(environment.contains(r#""kind":"ModelEndpoint""#) && environment.contains(&uri), "{environment}");
    served.signal(Signal::SIGTERM);
    let ran = served.wait();
    assert_eq!(ran.code, 143, "{ran:?}");
    assert!(ran.out.contains("serve --address 127.0.0.1 --port 39871 --grpc-port 39872 --drain-seconds 0"), "{ran:?}");
    // There are no Secrets here, and nobody else reaches it.
    assert!(ran.err.contains("spec.authentication: has no effect here: the server asks for no token"), "{ran:?}");
    assert!(ran.err.contains("ModelEndpoint a: stopped") && !lives(&pid), "{ran:?}");
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_anything_starts() {
    let yard = Yard::training(&["ok"]);
    yard.write("file", "");
    let below_a_file = format!("file://{}/out", yard.path("file").display());
    for (output, why) in [(below_a_file.as_str(), "Not a directory"), ("file:///proc/nowhere/out", "No such file")] {
        let ran = yard.run(&["--set", &format!("spec.output.uri={output}")]);
        assert_eq!(ran.code, 64, "{ran:?}");
        assert!(ran.err.contains("can't write to the folder") && ran.err.contains(why), "{ran:?}");
    }
    assert!(!yard.path("started-1-0").exists());
    assert_eq!(yard.run(&[]).code, 0, "nothing has begun that could not be changed");
}

#[test]
fn what_a_person_should_know_of_a_done_job_stands_below_it() {
    let ran = Yard::training(&["noted"]).run(&[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("\n  note       2 findings about the data: see the report\n"), "{ran:?}");
}

#[test]
fn rows_of_an_older_model_are_told() {
    let yard = Yard::training(&["ok"]);
    std::fs::create_dir(yard.path("model")).unwrap();
    yard.write("model/model.json", "");
    yard.write(
        "job.yaml",
        &format!(
            "apiVersion: trainyard.dev/v1alpha1\nkind: ScoringJob\nmetadata: {{name: a}}\nspec:\n  model: {{uri: \"file://{}\"}}\n  \
             data: {{uri: \"file://{}\"}}\n  output: {{uri: \"pvc://scores\"}}\n",
            yard.path("model").display(),
            yard.path("data").display()
        ),
    );
    assert_eq!(yard.run(&[]).code, 0);
    // The digest of nothing, and another one.
    for (digest, says) in [
        ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "It was finished before"),
        ("0", "It was scored before, by an older model than is there now: --fresh scores anew"),
    ] {
        yard.write(".trainyard/volumes/scores/manifest.json", &format!("{{\"modelDigest\": \"sha256:{digest}\"}}"));
        let again = yard.run(&[]);
        assert!(again.code == 0 && again.out.contains(says), "{again:?}");
    }
}

#[test]
fn a_trainer_that_is_not_there_is_said_so() {
    let yard = Yard::training(&["ok"]);
    let ran = yard.run(&["--trainer", "/no/trainer"]);
    assert_eq!(ran.code, 127, "{ran:?}");
    assert!(ran.err.contains("the trainer /no/trainer is not there") && ran.err.contains("--trainer"), "{ran:?}");
}
