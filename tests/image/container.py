"""Builds the image once, and starts, looks at and stops containers of it.

A container here is as strict as the chart makes a pod: read-only root, no capability, no new privileges, uid 65532. It shares the
network of this machine, so every listener gets a port of its own.
"""

import atexit
import functools
import json
import os
import shutil
import subprocess
import time
import uuid

from harness import ADMIN_KEY, ROOT, Appliance, Maildir, Rest, free_port, wait_for, workdir

SCRIPT = os.path.join(ROOT, "tests/lib/containers.sh")
UID = 65532
EPOCH = "1767225600"


def engine(*arguments, check=True, timeout=120):
    done = subprocess.run([SCRIPT, "engine", *arguments], capture_output=True, text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(arguments)}: {done.returncode}: {done.stderr}{done.stdout}")
    return done


@functools.lru_cache(None)
def is_docker():
    return "docker" in subprocess.run([SCRIPT, "setup"], capture_output=True, text=True, check=True).stdout


def version():
    done = subprocess.run([os.environ["BRIDGEHEAD_BIN"], "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


def build(tag, *arguments):
    """Builds the Dockerfile as it is, with the binary that is there or, with IMAGE_COMPILED, with one that is compiled in it from
    nothing; gives the id of the image."""
    environment = dict(os.environ, SOURCE_DATE_EPOCH=EPOCH)
    target = ["--target", "prebuilt"]
    if os.environ.get("IMAGE_COMPILED"):
        target = ["--no-cache"]
        if is_docker():
            engine("builder", "prune", "--force", "--filter", "type=exec.cachemount", timeout=600)
        else:
            # where Podman keeps what it has compiled
            environment["TMPDIR"] = workdir("image-cache")
    same = ["--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"] + ([] if is_docker() else ["--timestamp", EPOCH])
    done = subprocess.run([SCRIPT, "build", *same, *target, "--build-arg", f"VERSION={version()}",
                           *arguments, "-t", tag, os.environ["IMAGE_CONTEXT"]],
                          capture_output=True, text=True, timeout=7200, env=environment, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise AssertionError(f"the image cannot be built:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return engine("image", "inspect", "--format", "{{.Id}}", tag).stdout.strip()


@functools.lru_cache(None)
def image():
    """The image under test."""
    build("localhost/bridgehead:test")
    return "localhost/bridgehead:test"


@functools.lru_cache(None)
def inspected():
    return json.loads(engine("image", "inspect", image()).stdout)[0]


def files(tag):
    """The root of an image, as an archive."""
    name = f"bh-files-{uuid.uuid4().hex[:8]}"
    archive = os.path.join(workdir("image-files"), "root.tar")
    engine("create", "--name", name, tag)
    engine("export", "-o", archive, name)
    engine("rm", "-f", name)
    return archive


class Container:
    """A running container. `start()` returns when it takes mail."""

    def __init__(self, name="image", env=None, mounts=(), options=()):
        self.dir = workdir(name)
        self.data = os.path.join(self.dir, "data")
        os.makedirs(self.data)
        os.chown(self.data, UID, UID)
        os.chmod(self.data, 0o700)
        self.env, self.mounts, self.options = dict(env or {}), list(mounts), list(options)
        self.api, self.health, self.smtp_port = free_port(), free_port(), free_port()
        self.rest = Rest(f"127.0.0.1:{self.api}")
        self.runs = 0
        self.name = None

    def command(self, *arguments, detached=True, data=True):
        env = {"BRIDGEHEAD_API_LISTEN": f"127.0.0.1:{self.api}", "BRIDGEHEAD_HEALTH_LISTEN": f"127.0.0.1:{self.health}",
               "BRIDGEHEAD_SMTP_LISTEN": f"127.0.0.1:{self.smtp_port}", "BRIDGEHEAD_ADMIN_KEY": ADMIN_KEY, **self.env}
        command = ["run"] + (["-d"] if detached else ["--rm"]) + [
            "--name", self.name, "--network", "host", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            *(["--read-only-tmpfs=false"] if not is_docker() else [])]
        if data:
            command += ["-v", f"{self.data}:/var/lib/bridgehead"]
        for source, target in self.mounts:
            command += ["-v", f"{source}:{target}:ro"]
        for key, value in env.items():
            if value is not None:
                command += ["-e", f"{key}={value}"]
        return [*command, *self.options, image(), *arguments]

    def start(self, ready=True, timeout=40):
        self.runs += 1
        self.name = f"bh-{os.path.basename(self.dir)}-{self.runs}"
        engine(*self.command())
        atexit.register(self.destroy)
        if ready:
            self.wait_ready(timeout)
        return self

    def once(self, *arguments):
        """Runs another command of the binary to its end."""
        self.runs += 1
        self.name = f"bh-{os.path.basename(self.dir)}-{self.runs}"
        return engine(*self.command(*arguments, detached=False), check=False)

    def wait_ready(self, timeout=40):
        def ready():
            if not self.running():
                raise RuntimeError(f"it ended:\n{self.logs()[-4000:]}")
            return Rest(f"127.0.0.1:{self.health}", key=None).get("/readyz").status == 200
        try:
            wait_for("ready", ready, timeout)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.logs()[-4000:]}") from None

    def state(self):
        return json.loads(engine("inspect", self.name).stdout)[0]

    def running(self):
        return self.state()["State"]["Running"]

    def pid(self):
        return self.state()["State"]["Pid"]

    def logs(self):
        done = engine("logs", self.name, check=False)
        return done.stdout + done.stderr

    def exec(self, *arguments):
        return engine("exec", self.name, *arguments, check=False)

    def stop(self, patience=20):
        """SIGTERM, as the image says; gives the exit status."""
        engine("stop", "-t", str(patience), self.name)
        return self.state()["State"]["ExitCode"]

    def kill(self):
        engine("kill", "-s", "KILL", self.name)
        wait_for("its end", lambda: not self.running(), 20)

    def destroy(self):
        atexit.unregister(self.destroy)
        if self.name:
            engine("rm", "-f", self.name, check=False)

    def maildir(self, name):
        return Maildir(os.path.join(self.data, "mail", "default", name))

    def copy_data(self):
        """A copy of the data directory, for another container or process."""
        copy = os.path.join(self.dir, f"copy-{uuid.uuid4().hex[:8]}")
        shutil.copytree(self.data, copy, symlinks=True)
        for root, _, names in os.walk(copy):
            for path in [root, *(os.path.join(root, n) for n in names)]:
                os.chown(path, UID, UID, follow_symlinks=False)
        return copy


def swapped_in(directory, files):
    """Writes files as the kubelet does: in a new directory, to which the link `..data` is moved at once."""
    name = f"..{time.time_ns()}"
    os.makedirs(os.path.join(directory, name))
    for file, text in files.items():
        with open(os.path.join(directory, name, file), "w") as f:
            f.write(text)
    link = os.path.join(directory, "..new")
    os.symlink(name, link)
    os.replace(link, os.path.join(directory, "..data"))
    for file in files:
        path = os.path.join(directory, file)
        if not os.path.lexists(path):
            os.symlink(os.path.join("..data", file), path)


for method in ("server", "relay_for", "route_to", "quick_retries", "local_domain", "queues", "queue", "waiting", "hold", "release", "messages"):
    setattr(Container, method, getattr(Appliance, method))
