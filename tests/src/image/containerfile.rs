//! What an image is told to be, read from the last stage of its Containerfile: what is tested is what ships.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

/// The part of a Containerfile that becomes an image's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containerfile {
    /// The program that is started, with its first arguments.
    pub entrypoint: Vec<String>,
    /// Variables, as `NAME=value`.
    pub environment: Vec<String>,
    /// User and group.
    pub user: String,
    /// The folder that it starts in.
    pub folder: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that it listens on.
    pub ports: Vec<String>,
    /// Names of the layers that `rootfs.sh` assembles for it, the lowest first.
    pub layers: Vec<String>,
}

impl Containerfile {
    /// Reads one, with values for its arguments.
    ///
    /// # Errors
    /// Where it can't be read, or its last stage has an instruction that is not known here.
    pub fn read(path: &Path, arguments: &[(&str, &str)]) -> io::Result<Containerfile> {
        let text = fs::read_to_string(path)?;
        Containerfile::parse(&text, arguments).map_err(|fault| io::Error::other(format!("{}: {fault}", path.display())))
    }

    fn parse(text: &str, arguments: &[(&str, &str)]) -> Result<Containerfile, String> {
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let text = lines.join("\n").replace("\\\n", " ");
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut stages = lines.rsplit(|line| line.starts_with("FROM "));
        let last = stages.next().filter(|last| last.len() < lines.len()).ok_or("it has no FROM")?;
        let mut read = Containerfile::default();
        for line in last {
            let (instruction, rest) = line.split_once(' ').ok_or_else(|| format!("no instruction: {line}"))?;
            let mut rest = rest.trim().to_owned();
            for (name, value) in arguments {
                rest = rest.replace(&format!("${{{name}}}"), value);
            }
            let unknown = || format!("{line}: this is not known of an image's last stage");
            match instruction {
                "ARG" => {}
                "LABEL" => read.labels.extend(pairs(&rest).ok_or_else(unknown)?),
                "ENV" => {
                    let pairs = pairs(&rest).ok_or_else(unknown)?;
                    read.environment.extend(pairs.into_iter().map(|(name, value)| format!("{name}={value}")));
                }
                "COPY" => {
                    let layer = rest.strip_prefix("--from=build /image/").and_then(|rest| rest.strip_suffix("/ /"));
                    read.layers.push(layer.ok_or_else(unknown)?.to_owned());
                }
                "USER" => read.user = rest,
                "WORKDIR" => read.folder = rest,
                "EXPOSE" => read.ports.extend(rest.split_whitespace().map(str::to_owned)),
                "ENTRYPOINT" => read.entrypoint = serde_json::from_str(&rest).map_err(|_| unknown())?,
                _ => return Err(unknown()),
            }
        }
        Ok(read)
    }
}

/// Pairs such as `a=b c="d e"`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut rest = text.trim();
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(' ').unwrap_or((after, "")),
        };
        pairs.push((name.to_owned(), value.to_owned()));
        rest = after.trim_start();
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "FROM rust AS build
RUN make \\
  it
FROM scratch
# What it is.
ARG VERSION
LABEL title=\"A b\" \\
  version=\"${VERSION}\"
COPY --from=build /image/system/ /
COPY --from=build /image/program/ /
ENV PATH=/usr/local/bin HOME=/tmp
WORKDIR /tmp
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT [\"/usr/local/bin/a\", \"b\"]
";

    #[test]
    fn the_last_stage_is_the_image() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let labels = [("title", "A b"), ("version", "1.2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = Containerfile {
            entrypoint: texts(&["/usr/local/bin/a", "b"]),
            environment: texts(&["PATH=/usr/local/bin", "HOME=/tmp"]),
            user: "65532:65532".to_owned(),
            folder: "/tmp".to_owned(),
            labels: labels.into(),
            ports: texts(&["8080", "8081"]),
            layers: texts(&["system", "program"]),
        };
        assert_eq!(Containerfile::parse(TEXT, &[("VERSION", "1.2")]), Ok(expected));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (line, fault) in [
            ("RUN x", "RUN x: this is not known of an image's last stage"),
            ("COPY a b", "COPY a b: this is not known of an image's last stage"),
            ("USER", "no instruction: USER"),
        ] {
            assert_eq!(Containerfile::parse(&format!("FROM scratch\n{line}"), &[]), Err(fault.to_owned()));
        }
    }
}
