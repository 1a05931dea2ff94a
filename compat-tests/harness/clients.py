"""The clients, each set up the way its users set it up."""

import boto3
from botocore import UNSIGNED
from botocore.config import Config

from harness.process import plain_env, run, tool


def boto(server, *, access_key=None, secret_key=None, signature=None, style="path", **options):
    """A boto3 S3 client; `signature` is boto's name of it, `UNSIGNED` for none."""
    config = Config(
        signature_version=signature,
        s3={"addressing_style": style, **options.pop("s3", {})},
        retries={"max_attempts": 1, "mode": "standard"},
        connect_timeout=10,
        read_timeout=options.pop("read_timeout_s", 60),
        proxies={},
        **options,
    )
    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.url,
        region_name=server.region,
        aws_access_key_id=access_key or server.access_key,
        aws_secret_access_key=secret_key or server.secret_key,
        config=config,
        verify=getattr(server, "ca_file", None),
    )


def anonymous(server):
    """A boto3 client that signs nothing."""
    return boto(server, signature=UNSIGNED)


class AwsCli:
    """`aws`, with keys in the environment."""

    def __init__(self, server, home):
        self.server = server
        self.env = plain_env(
            home,
            AWS_ACCESS_KEY_ID=server.access_key,
            AWS_SECRET_ACCESS_KEY=server.secret_key,
            AWS_DEFAULT_REGION=server.region,
            AWS_ENDPOINT_URL=server.url,
            AWS_MAX_ATTEMPTS="1",
            AWS_EC2_METADATA_DISABLED="true",
        )

    def __call__(self, *words, **options):
        return run([tool("aws"), *words], env=self.env, **options).stdout.decode()


class S3cmd:
    """`s3cmd` with a configuration file, path style."""

    def __init__(self, server, home, **more):
        self.env = plain_env(home)
        self.config = home / ".s3cfg"
        settings = {
            "access_key": server.access_key,
            "secret_key": server.secret_key,
            "host_base": server.authority,
            "host_bucket": server.authority,
            "bucket_location": server.region,
            "use_https": "False",
            "signature_v2": "False",
            **more,
        }
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        self.config.write_text("[default]\n" + "".join(lines))

    def __call__(self, *words, **options):
        command = [tool("s3cmd"), "-c", self.config, "--no-progress", *words]
        return run(command, env=self.env, **options).stdout.decode()


class Rclone:
    """`rclone` with a remote called `portico:`."""

    def __init__(self, server, home):
        self.env = plain_env(
            home,
            RCLONE_CONFIG=str(home / "rclone.conf"),
            RCLONE_RETRIES="1",
            RCLONE_LOW_LEVEL_RETRIES="1",
        )
        (home / "rclone.conf").write_text(
            "[portico]\ntype = s3\nprovider = Other\n"
            f"access_key_id = {server.access_key}\nsecret_access_key = {server.secret_key}\n"
            f"endpoint = {server.url}\nregion = {server.region}\nforce_path_style = true\n"
        )

    def __call__(self, *words, **options):
        return run(["rclone", *words], env=self.env, **options).stdout.decode()


class Restic:
    """`restic` with its repository in a bucket."""

    def __init__(self, server, home, bucket):
        self.env = plain_env(
            home,
            AWS_ACCESS_KEY_ID=server.access_key,
            AWS_SECRET_ACCESS_KEY=server.secret_key,
            AWS_DEFAULT_REGION=server.region,
            RESTIC_PASSWORD="a test's password",
            RESTIC_REPOSITORY=f"s3:{server.url}/{bucket}/repo",
            RESTIC_CACHE_DIR=str(home / "cache"),
        )

    def __call__(self, *words, **options):
        return run(["restic", *words], env=self.env, **options).stdout.decode()
