//! `bundlehook`: one program, several roles and tools.

use std::process::ExitCode;

use bundlehook::{
    commands::CommandError,
    config::{self, Command, Exit},
    ops::{anew, logging, shutdown},
    roles::{Roles, dev},
    tools,
};
use mimalloc::MiMalloc;
use tokio_util::sync::CancellationToken;

/// A quarter of the time of closing windows went into the system's allocator, see docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    anew::close_left_open();
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return leave(&exit),
    };
    logging::start(&cli.log);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let done = runtime.block_on(run(cli.command));
    // Nothing that still blocks may hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done.unwrap_or_else(|error| fail(&error))
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal()?;
    match command {
        Command::Aggregate(command) => Roles::from(command).run(stop).await,
        Command::Deliver(command) => Roles::from(command).run(stop).await,
        Command::Notify(command) => Roles::from(command).run(stop).await,
        Command::Serve(command) => Roles::from(*command).run(stop).await,
        Command::All(command) => Roles::from(*command).run(stop).await,
        Command::Dev(command) => dev::run(*command, stop).await,
        Command::Topics(command) => tools::topics::run(command.kafka, command.topics).await,
        Command::Produce(command) => {
            tools::produce::run(command.kafka, command.produce, stop.cancelled_owned()).await
        }
        Command::Webhook(command) => tools::webhook::run(command.action, stop).await,
        Command::Receive(command) => tools::receive::run(command.receive, stop.cancelled_owned()).await,
        Command::Doctor(command) => return unless_stopped(tools::doctor::run(command), &stop).await,
        Command::Inspect(command) => unless_stopped(tools::inspect::run(command), &stop).await,
        Command::Config(command) => tools::config::run(&command.output),
        Command::DeadLetters(command) => unless_stopped(tools::dead_letters::run(command), &stop).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Breaks off what has nothing to bring to an end.
async fn unless_stopped<T>(
    work: impl Future<Output = anyhow::Result<T>>,
    stop: &CancellationToken,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        () = stop.cancelled() => anyhow::bail!("stopped"),
    }
}

fn leave(exit: &Exit) -> ExitCode {
    if exit.code == 0 {
        print!("{}", exit.text);
    } else {
        eprint!("{}", exit.text);
    }
    ExitCode::from(u8::try_from(exit.code).unwrap_or(1))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    error.downcast_ref().map_or(ExitCode::FAILURE, |error: &CommandError| error.exit_code().into())
}
