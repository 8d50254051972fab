//! One node: its namespaces and what runs in them, from its start to a power cut and back.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::files::{CONTROL_PLANE, PAUSE, PODS, Parts, Place, SERVICES, SOCKET};
use super::needs::NAMESPACES;
use super::{cgroups, entry, module, program};
use crate::cluster::process::{Process, children};
use crate::cluster::programs::Programs;
use crate::cluster::{Cluster, Error, PROXY, kubelet};

/// Namespace of containerd in which a kubelet's images and containers are.
const IMAGES: &str = "k8s.io";

/// How long a part may take to come up: it takes a fraction of a second on a machine with nothing else to do.
pub(super) const START: Duration = Duration::from_secs(120);

/// A node. It loses power when this is dropped.
pub struct Machine {
    name: String,
    gpus: u32,
    place: Place,
    folder: PathBuf,
    control_group: PathBuf,
    kubelet_access: PathBuf,
    // Fields are dropped in this order; all others end with the last.
    parts: Vec<Process>,
    kubelet: Option<Process>,
    first: Option<Process>,
}

impl Machine {
    /// Starts one, which has not yet a kubelet. Its disk begins as the copy of another one's, if that is given.
    pub(super) fn start(cluster: &Cluster, name: &str, number: u8, like: Option<&Machine>) -> Result<Machine, Error> {
        let folder = cluster.folder().join(name);
        fs::create_dir_all(&folder)?;
        let control_group = entry::control_group(name);
        let place = Place { number };
        let proxy_access = cluster.write_part_access(PROXY)?;
        let kubelet_access = cluster.write_part_access(&kubelet(name))?;
        let parts = Parts {
            name,
            place,
            folder: &folder,
            control_group: &control_group,
            authority: cluster.authority(),
            proxy_access: &proxy_access,
        };
        parts.write()?;
        let mut machine = Machine {
            name: name.to_owned(),
            gpus: 0,
            place,
            folder,
            control_group,
            kubelet_access,
            parts: Vec::new(),
            kubelet: None,
            first: None,
        };
        if let Some(like) = like {
            copy_disk(&like.disk(), &machine.disk())?;
        }
        machine.boot()?;
        Ok(machine)
    }

    /// Where its images are.
    fn disk(&self) -> PathBuf {
        self.folder.join("disk/containerd")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends all that runs on it at once, as a power cut would. What its disk has, stays.
    pub fn cut_power(&mut self) {
        if let Some(mut first) = self.first.take() {
            first.kill();
        }
        for mut part in self.kubelet.take().into_iter().chain(self.parts.drain(..)) {
            part.wait();
        }
        // The link would go with the namespaces, at some time.
        let _ = run("ip", ["link", "del", &self.link()]);
    }

    /// Starts it, the first time or after a power cut.
    ///
    /// # Errors
    /// Where a part of it does not start.
    pub fn power_on(&mut self) -> Result<(), Error> {
        self.boot()?;
        self.join()
    }

    /// Starts it as far as containerd.
    fn boot(&mut self) -> Result<(), Error> {
        cgroups::make(&self.control_group)?;
        let up = self.folder.join("up");
        let _ = fs::remove_file(&up);
        let arguments = NAMESPACES.map(str::to_owned).into_iter().chain([
            module().join("node.sh").display().to_string(),
            self.folder.display().to_string(),
            self.name.clone(),
        ]);
        let mut first = Process::start("node", "unshare".into(), arguments.collect(), &self.folder)?;
        wait_for(&mut first, "has no namespaces of its own", || up.exists())?;
        self.first = Some(first);
        self.connect()?;

        let mut containerd =
            self.inside("containerd", Path::new("containerd"), &["--config", &self.file("containerd.toml")])?;
        let listens = || self.command("test").args(["-S", SOCKET]).status().is_ok_and(|status| status.success());
        wait_for(&mut containerd, "does not answer", || listens() && self.containerd(["version"]).is_ok())?;
        self.parts.push(containerd);
        Ok(())
    }

    /// Starts what makes it a node of the cluster.
    pub(super) fn join(&mut self) -> Result<(), Error> {
        self.start_kubelet()?;
        let proxy = self.inside(
            "kube-proxy",
            &Programs::default().find("kube-proxy")?,
            &["--config", &self.file("proxy.yaml")],
        )?;
        self.parts.push(proxy);
        if self.gpus > 0 { self.start_plugin() } else { Ok(()) }
    }

    /// Lets it offer so many GPUs as `nvidia.com/gpu`. There are none.
    ///
    /// # Errors
    /// Where the device plug-in can't be started.
    pub fn offer_gpus(&mut self, number: u32) -> Result<(), Error> {
        self.gpus = number;
        self.start_plugin()
    }

    fn start_plugin(&mut self) -> Result<(), Error> {
        let arguments = ["nvidia.com/gpu", &self.gpus.to_string(), "/var/lib/kubelet/device-plugins"];
        let plugin = self.inside("device-plugin", &program("device-plugin")?, &arguments)?;
        self.parts.push(plugin);
        Ok(())
    }

    /// Ends the kubelet alone: pods run on, and nobody says how they are.
    pub fn stop_kubelet(&mut self) {
        if let Some(mut kubelet) = self.kubelet.take() {
            kubelet.kill_children();
        }
    }

    /// Starts the kubelet.
    ///
    /// # Errors
    /// Where it can't be started.
    pub fn start_kubelet(&mut self) -> Result<(), Error> {
        let arguments = [
            format!("--config={}", self.file("kubelet.yaml")),
            format!("--kubeconfig={}", self.kubelet_access.display()),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.place.address()),
        ];
        let arguments = arguments.each_ref().map(String::as_str);
        self.kubelet = Some(self.inside("kubelet", &Programs::default().find("kubelet")?, &arguments)?);
        Ok(())
    }

    /// Makes an image known to the node, from an OCI archive.
    ///
    /// # Errors
    /// Where containerd refuses it.
    pub fn import(&self, archive: &Path) -> Result<(), Error> {
        self.containerd([OsStr::new("images"), OsStr::new("import"), archive.as_os_str()])
    }

    /// A command on the node.
    ///
    /// # Panics
    /// Where the node has no power.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.namespaces()).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Numbers of the processes in the node's containers, as this process knows them, whose command line has a text in it.
    pub fn processes(&self, text: &str) -> Vec<u32> {
        let Some(first) = self.first.as_ref().and_then(Process::id) else { return Vec::new() };
        let mut found = Vec::new();
        let mut rest = children(first);
        while let Some(process) = rest.pop() {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).replace('\0', " ").contains(text) {
                found.push(process);
            }
            rest.extend(children(process));
        }
        found.sort_unstable();
        found
    }

    /// The end of a part's log: `kubelet`, `containerd`, `kube-proxy`, `device-plugin`.
    pub fn log(&self, part: &str) -> String {
        let log = fs::read_to_string(self.folder.join(part).with_extension("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// A part of it that has ended, and should not have.
    pub(super) fn broken(&mut self) -> Option<Error> {
        let parts = self.parts.iter_mut().chain(&mut self.kubelet);
        let ended = |part: &mut Process| {
            let status = part.ended()?;
            Some(Error::Start { program: part.name, what: format!("ended with {status}"), log: part.last_words() })
        };
        parts.into_iter().find_map(ended)
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn namespaces(&self) -> [String; 4] {
        let first = self.first.as_ref().and_then(Process::id);
        let first = first.unwrap_or_else(|| panic!("{} has no power", self.name));
        // The process that made the process namespace is not in it, but its children are.
        [("net", "net"), ("mount", "mnt"), ("uts", "uts"), ("pid", "pid_for_children")]
            .map(|(flag, kind)| format!("--{flag}=/proc/{first}/ns/{kind}"))
    }

    fn inside(&self, name: &'static str, program: &Path, arguments: &[&str]) -> Result<Process, Error> {
        let mut all: Vec<_> = self.namespaces().into();
        all.extend(["--".into(), program.display().to_string()]);
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Process::start(name, "nsenter".into(), all, &self.folder)
    }

    fn containerd<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<(), Error> {
        let mut command = self.command("ctr");
        command.args(["--address", SOCKET, "--namespace", IMAGES]).args(arguments);
        done(&mut command)
    }

    fn link(&self) -> String {
        format!("node{}", self.place.number)
    }

    /// Joins the node to the bridge and gives it its routes.
    fn connect(&self) -> Result<(), Error> {
        let first = self.first.as_ref().and_then(Process::id).unwrap_or_default().to_string();
        let (link, address) = (self.link(), self.place.address());
        run("ip", ["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &first])?;
        run("ip", ["link", "set", &link, "master", BRIDGE, "up"])?;
        run("ip", ["route", "replace", &self.place.pods(), "via", &address])?;
        let inside = |arguments: &[&str]| done(self.command("ip").args(arguments));
        inside(&["addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        let control_plane = CONTROL_PLANE.map(|part| part.to_string()).join(".");
        // The control plane's machine knows where each node's pods are. There is no other route: nothing leaves this machine.
        for range in [PODS, SERVICES] {
            inside(&["route", "add", range, "via", &control_plane])?;
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
    }
}

/// The bridge that nodes are joined to.
const BRIDGE: &str = "nodes";

/// Sets up the network that nodes join: a bridge with the control plane's address, and the way to services.
pub(super) fn network() -> Result<(), Error> {
    let address = CONTROL_PLANE.map(|part| part.to_string()).join(".");
    run("ip", ["link", "add", BRIDGE, "type", "bridge"])?;
    run("ip", ["addr", "add", &format!("{address}/24"), "dev", BRIDGE])?;
    run("ip", ["link", "set", BRIDGE, "up"])?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    // Any node's proxy will do; it lets answers come back through it.
    run("ip", ["route", "add", SERVICES, "via", &Place { number: 1 }.address(), "dev", BRIDGE])
}

/// Copies a disk of images, of which nothing is ever changed in its place but the files of containerd's databases.
fn copy_disk(from: &Path, to: &Path) -> Result<(), Error> {
    let script = "set -e; mkdir -p \"$2\"; cp -al \"$1/.\" \"$2\"; cd \"$1\"
        find . -name '*.db' -exec cp --remove-destination {} \"$2\"/{} ';'";
    done(Command::new("sh").args(["-c", script, "sh"]).args([from, to]))
}

/// Writes the archive of the image that holds a pod's namespaces.
pub(super) fn pause(folder: &Path) -> Result<PathBuf, Error> {
    let archive = folder.join("pause.tar");
    let image = crate::image::single(&program("pause")?, PAUSE);
    image.and_then(|image| image.write(&archive)).map_err(|fault| Error::Folder(std::io::Error::other(fault)))?;
    Ok(archive)
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
    done(Command::new(program).args(arguments))
}

fn done(command: &mut Command) -> Result<(), Error> {
    let spawned = command.output();
    let output = spawned.map_err(|source| Error::Spawn { program: command.get_program().into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Folder(std::io::Error::other(format!("{command:?} ended with {}: {said}", output.status))))
}

/// Waits for something that a process does, which there is nothing to watch for.
fn wait_for(process: &mut Process, late: &str, holds: impl Fn() -> bool) -> Result<(), Error> {
    let began = Instant::now();
    while !holds() {
        let what = match process.ended() {
            Some(status) => format!("ended with {status}"),
            None if began.elapsed() > START => format!("{late} after {} s", START.as_secs()),
            None => {
                sleep(Duration::from_millis(20));
                continue;
            }
        };
        return Err(Error::Start { program: process.name, what, log: process.last_words() });
    }
    Ok(())
}
