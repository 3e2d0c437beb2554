//! Where the images of the pods come from. The test cluster has them on its nodes; another cluster takes them from a registry.

use std::env;

const DEFAULT_PREFIX: &str = "localhost";
const DEFAULT_TAG: &str = "dev";

/// The image `name` of this checkout: STILLPOINT_IMAGES (such as `registry.example.com/team`) is what stands before its name,
/// STILLPOINT_TAG its tag.
pub fn image(name: &str) -> String {
    format!("{}/{name}:{}", given("STILLPOINT_IMAGES", DEFAULT_PREFIX), given("STILLPOINT_TAG", DEFAULT_TAG))
}

fn given(variable: &str, otherwise: &str) -> String {
    env::var(variable).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| otherwise.into())
}
