//! What the control plane's parts know each other by: one authority, the API server's certificate, the key that signs
//! service accounts' tokens, and an administrator's token.

use std::fs;
use std::path::{Path, PathBuf};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::Error;
use super::control_plane::{Kubelets, PROXY, kubelet};

/// The API server's address as a service, which pods know: the first of the range.
const SERVICE: &str = "10.251.0.1";

/// The files that the control plane starts with.
pub(super) struct Credentials {
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Signs service accounts' tokens.
    pub(super) service_accounts: PathBuf,
    /// Checks them.
    pub(super) service_accounts_public: PathBuf,
    /// The API server's table of tokens.
    pub(super) tokens: PathBuf,
    /// The administrator's token.
    pub(super) token: String,
    /// Tokens of kubelets and proxies, by the name that the API server knows them by.
    pub(super) parts: Vec<(String, String)>,
    /// By which kubelets know the API server.
    pub(super) kubelet_client: PathBuf,
    /// Its key.
    pub(super) kubelet_client_key: PathBuf,
}

impl Credentials {
    /// Makes them and writes them into a folder.
    pub(super) fn write(folder: &Path, kubelets: Option<&Kubelets>) -> Result<Credentials, Error> {
        let named = |name: &str, hosts: &[&str]| {
            let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>())?;
            params.distinguished_name.push(DnType::CommonName, name);
            Ok::<_, rcgen::Error>(params)
        };
        let mut authority = named("test control plane", &[])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority_key = KeyPair::generate()?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate()?;
        let reached = kubelets.map(|kubelets| kubelets.address.to_string());
        let hosts = ["127.0.0.1", "localhost", "kubernetes.default.svc", SERVICE];
        let hosts: Vec<&str> = hosts.into_iter().chain(reached.as_deref()).collect();
        let certificate = named("kube-apiserver", &hosts)?.signed_by(&key, &issuer)?;
        let kubelet_client_key = KeyPair::generate()?;
        let mut kubelet_client = named("kube-apiserver-kubelet-client", &[])?;
        kubelet_client.distinguished_name.push(DnType::OrganizationName, "system:masters");
        kubelet_client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let kubelet_client = kubelet_client.signed_by(&kubelet_client_key, &issuer)?;

        let service_accounts = KeyPair::generate()?;

        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map(|()| path)
        };
        let token = uuid::Uuid::new_v4().to_string();
        let mut table = format!("{token},administrator,administrator,system:masters\n");
        let mut parts = Vec::new();
        let nodes = kubelets.into_iter().flat_map(|kubelets| &kubelets.names);
        let nodes = nodes.map(|node| (kubelet(node), "system:nodes"));
        for (name, group) in nodes.chain([(PROXY.to_owned(), "system:node-proxiers")]) {
            let token = uuid::Uuid::new_v4().to_string();
            table.push_str(&format!("{token},{name},{name},{group}\n"));
            parts.push((name, token));
        }
        Ok(Credentials {
            authority: write("authority.crt", &authority_certificate.pem())?,
            certificate: write("apiserver.crt", &certificate.pem())?,
            key: write("apiserver.key", &key.serialize_pem())?,
            service_accounts: write("service-accounts.key", &service_accounts.serialize_pem())?,
            service_accounts_public: write("service-accounts.pub", &service_accounts.public_key_pem())?,
            tokens: write("tokens.csv", &table)?,
            token,
            parts,
            kubelet_client: write("kubelet-client.crt", &kubelet_client.pem())?,
            kubelet_client_key: write("kubelet-client.key", &kubelet_client_key.serialize_pem())?,
        })
    }
}

/// A kubeconfig as a file and as a client.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) path: PathBuf,
    kubeconfig: Kubeconfig,
}

impl Access {
    /// Writes a kubeconfig for whoever has `token`. JSON is YAML too.
    pub(super) fn write(
        path: PathBuf,
        server: &str,
        authority: &Path,
        token: &str,
        namespace: &str,
    ) -> Result<Access, Error> {
        let value = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": authority}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        });
        let text = value.to_string();
        fs::write(&path, &text)?;
        Ok(Access { path, kubeconfig: Kubeconfig::from_yaml(&text)? })
    }

    /// A client. It belongs to the async runtime that it is made on.
    pub(super) async fn client(&self, namespace: &str) -> Result<Client, Error> {
        let mut config = Config::from_custom_kubeconfig(self.kubeconfig.clone(), &KubeConfigOptions::default()).await?;
        config.default_namespace = namespace.to_owned();
        Ok(Client::try_from(config)?)
    }
}
