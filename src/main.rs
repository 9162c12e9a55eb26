//! `bridgehead`: see the library's documentation for the map of the house.

use std::process::ExitCode;

use bridgehead::boot;
use bridgehead::cli::{self, Cli, Command};
use bridgehead::net::tls;
use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    tls::install();
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Check(check)) => return cli::check(&check),
        Some(Command::Schema) => return cli::print_schema(),
        Some(Command::Restore(restore)) => return Ok(restore.run()),
        Some(Command::Doctor(doctor)) => return Ok(doctor.run()),
        Some(Command::Client(command)) => return Ok(command.run()),
        Some(Command::Openapi) => boot::print_openapi(),
        Some(Command::Healthcheck(asked)) => asked.run(),
        Some(Command::Serve(serve)) => boot::serve(*serve),
        None => boot::serve(cli.serve),
    }?;
    Ok(ExitCode::SUCCESS)
}
