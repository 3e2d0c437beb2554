//! Snapshot classes of the test driver, with faults as parameters.

use std::collections::BTreeMap;

use anyhow::Result;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::ApiResource;
use serde_json::json;

use crate::installed::DRIVER;
use crate::namespace::Place;

/// A snapshot class of the test driver, named after the namespace of a test.
pub struct SnapshotClass {
    api: Api<DynamicObject>,
    resource: ApiResource,
    name: String,
}

impl SnapshotClass {
    /// The class of a namespace with this purpose. It is not there before [`SnapshotClass::create`].
    pub fn new(place: &Place, purpose: &str) -> Self {
        let kind = GroupVersionKind::gvk("snapshot.storage.k8s.io", "v1", "VolumeSnapshotClass");
        let resource = ApiResource::from_gvk_with_plural(&kind, "volumesnapshotclasses");
        let name = format!("{}-{purpose}", place.name);
        Self { api: Api::all_with(place.client(), &resource), resource, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the class with these parameters.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn create(&self, parameters: &[(&str, &str)]) -> Result<()> {
        let parameters: BTreeMap<&str, &str> = parameters.iter().copied().collect();
        let fields = json!({"driver": DRIVER, "deletionPolicy": "Delete", "parameters": parameters});
        let class = DynamicObject::new(&self.name, &self.resource).data(fields);
        self.api.create(&PostParams::default(), &class).await?;
        Ok(())
    }

    /// Removes the class.
    ///
    /// # Errors
    /// It is not there.
    pub async fn delete(&self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}
