//! `bridgehead`: see the library's documentation for the map of the house.

use std::process::ExitCode;

use bridgehead::boot;
use bridgehead::cli::{Cli, Command};
use bridgehead::net::tls;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    tls::install();
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Openapi) => boot::print_openapi().map(|()| ExitCode::SUCCESS),
        Some(Command::Serve(serve)) => boot::serve(*serve).map(|()| ExitCode::SUCCESS),
        Some(Command::Client(command)) => Ok(command.run()),
        None => boot::serve(cli.serve).map(|()| ExitCode::SUCCESS),
    }
}
