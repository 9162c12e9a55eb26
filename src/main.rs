//! The appliance: its parts are put together in `boot`, which comes with REST.
fn main() {}
