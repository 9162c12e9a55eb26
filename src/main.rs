//! `bridgehead`: see the library's documentation for the map of the house.

use bridgehead::boot;
use bridgehead::cli::{Cli, Command};
use bridgehead::net::tls;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    tls::install();
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Openapi) => boot::print_openapi(),
        Some(Command::Healthcheck(asked)) => asked.run(),
        Some(Command::Serve(serve)) => boot::serve(*serve),
        None => boot::serve(cli.serve),
    }
}
