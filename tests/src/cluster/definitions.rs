//! Our custom resource definitions on the control plane, from their files in `crds`.

use std::fs;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::conditions::is_crd_established;
use kube::{Api, ResourceExt};

use super::Cluster;
use super::namespace::wait;

impl Cluster {
    /// Applies the definitions in `crds` as `kubectl apply -f crds/` would, and returns them once they are served. To do it
    /// again changes nothing.
    ///
    /// # Panics
    /// Where the API server refuses one; the text is the server's.
    pub async fn definitions(&self) -> Vec<CustomResourceDefinition> {
        let mut served = Vec::new();
        for file in ["modelendpoints.yaml", "scoringjobs.yaml", "trainingjobs.yaml"] {
            let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../crds")).join(file);
            let text = fs::read_to_string(&path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
            served.extend(self.definition(&text).await);
        }
        served
    }

    /// Applies a definition, and returns it once it is served.
    ///
    /// # Panics
    /// Where the API server refuses it; the text is the server's.
    pub async fn definition(&self, yaml: &str) -> Option<CustomResourceDefinition> {
        let api = Api::<CustomResourceDefinition>::all(self.client().await);
        let definition: CustomResourceDefinition =
            serde_saphyr::from_str(yaml).unwrap_or_else(|fault| panic!("no definition: {fault}"));
        let name = definition.name_any();
        let how = PatchParams::apply("tests").force();
        let applied = api.patch(&name, &how, &Patch::Apply(&definition)).await;
        applied.unwrap_or_else(|fault| panic!("the API server refuses {name}: {fault}"));
        wait(api.clone(), &name, is_crd_established()).await
    }
}
