//! The `stillpoint` binary: a thin entry into the roles.

fn main() {}
