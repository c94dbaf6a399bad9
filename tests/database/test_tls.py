"""TLS: the options of a URL do what they say, at a PostgreSQL server and at a pooler; what fails is one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from lapse import ConversationService, Database
from tests.support.backlog import BUSINESS, customer
from tests.support.certificates import CLIENT, Certificates, can_make_certificates, make_certificates
from tests.support.commands import error_line, run_here, run_lapse
from tests.support.pgbouncer import require_pgbouncer, running_pgbouncer
from tests.support.postgres_process import NoServerError, running_server, server_with_tls
from tests.support.sql import run_sql

# Nobody gets in without TLS, and one role only with a certificate.
ACCESS = f"hostssl all {CLIENT} all cert\nhostssl all all all scram-sha-256\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if not can_make_certificates():
        pytest.skip("there is no OpenSSL 3 on this machine to make certificates with")
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_server(certificates: Certificates) -> Iterator[str]:
    """Return the URL of a PostgreSQL server with TLS."""

    def prepare(data: Path) -> dict[str, str]:
        certificates.copy_for_server(data)
        (data / "pg_hba.conf").write_text(ACCESS)
        return {
            "ssl": "on",
            "ssl_cert_file": "server.crt",
            "ssl_key_file": "server.key",
            "ssl_ca_file": "authority.crt",
        }

    with ExitStack() as stack:
        try:
            process = stack.enter_context(running_server(bin_folder=server_with_tls(), prepare=prepare))
            url = process.admin_url
        except NoServerError as error:
            pytest.skip(str(error))
        with closing(Database(url)) as database:
            run_sql(database, f"CREATE ROLE {CLIENT} LOGIN SUPERUSER")
        assert run_here("migrate", "--database-url", url).returncode == 0
        yield url


@pytest.fixture(scope="module")
def tls_pooler(certificates: Certificates, tls_server: str) -> Iterator[str]:
    """Return the URL of a pooler with TLS on both of its sides."""
    require_pgbouncer()

    def prepare(folder: Path) -> dict[str, str]:
        certificates.copy_for_server(folder)
        return {
            "client_tls_sslmode": "require",
            "client_tls_cert_file": str(folder / "server.crt"),
            "client_tls_key_file": str(folder / "server.key"),
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": str(folder / "authority.crt"),
        }

    with running_pgbouncer(tls_server, prepare) as url:
        yield url


@pytest.fixture(params=["server", "pooler"])
def tls_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of either of them."""
    return str(request.getfixturevalue(f"tls_{request.param}"))


def with_options(url: str, **options: str | Path) -> str:
    query = {name: str(value) for name, value in options.items()}
    return make_url(url).set(query=query).render_as_string(hide_password=False)


def refused(url: str, code: int = 1) -> str:
    """Check that the URL is refused in one line that holds no secret, and return the line."""
    line = error_line(run_here("status", "--database-url", url), code)
    password = make_url(url).password
    assert not password or password not in line
    return line


def works(url: str) -> None:
    assert "open, pending" in run_here("status", "--database-url", url).stdout
    with closing(ConversationService(url)) as service:
        assert service.record_message(1, customer(1), BUSINESS).status == "pending"


def test_without_tls_nobody_gets_in(tls_url: str) -> None:
    assert "not available" in refused(with_options(tls_url, sslmode="disable"))


def test_require_encrypts_whoever_answers(tls_url: str, certificates: Certificates) -> None:
    works(with_options(tls_url, sslmode="require"))
    with closing(Database(with_options(tls_url, sslmode="require"))) as database:
        assert run_sql(database, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(True,)]


def test_verify_full_works_with_the_servers_authority(tls_url: str, certificates: Certificates) -> None:
    url = with_options(tls_url, sslmode="verify-full", sslrootcert=certificates.path("authority.crt"))
    works(url)
    worker = run_lapse("worker", "--once", env={"DATABASE_URL": url})
    assert (worker.returncode, worker.stderr) == (0, "")


def test_verify_full_refuses_a_server_that_a_stranger_vouches_for(tls_url: str, certificates: Certificates) -> None:
    url = with_options(tls_url, sslmode="verify-full", sslrootcert=certificates.path("stranger.crt"))
    assert "certificate verify failed" in refused(url)
    worker = run_lapse("worker", "--once", env={"DATABASE_URL": url})
    assert "certificate verify failed" in error_line(worker, 1)


def test_verify_full_refuses_a_server_of_another_name(tls_url: str, certificates: Certificates) -> None:
    url = make_url(tls_url).set(host="localhost").render_as_string(hide_password=False)
    authority = certificates.path("authority.crt")
    assert "does not match host name" in refused(with_options(url, sslmode="verify-full", sslrootcert=authority))
    works(with_options(url, sslmode="verify-ca", sslrootcert=authority))


@pytest.fixture
def certified_url(tls_server: str) -> str:
    """Return the URL of the role that has no password but a certificate."""
    return make_url(tls_server).set(username=CLIENT, password=None).render_as_string(hide_password=False)


def test_a_client_shows_its_certificate(certified_url: str, certificates: Certificates) -> None:
    def showing(name: str) -> str:
        certificate, key = certificates.path(f"{name}.crt"), certificates.path(f"{name}.key")
        return with_options(certified_url, sslmode="require", sslcert=certificate, sslkey=key)

    works(showing("client"))
    assert "requires a valid client certificate" in refused(with_options(certified_url, sslmode="require"))
    assert "not available" in refused(showing("stranger"))


def test_a_key_that_others_may_read_is_refused(certified_url: str, certificates: Certificates, tmp_path: Path) -> None:
    key = tmp_path / "open.key"
    key.write_bytes(certificates.path("client.key").read_bytes())
    key.chmod(0o644)
    certificate = certificates.path("client.crt")
    assert "access" in refused(with_options(certified_url, sslmode="require", sslcert=certificate, sslkey=key))


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("sslmode=requir", "use one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("sslmode=require&sslmode=disable", "more than once"),
        ("sslmode=verify-full&sslrootcert=/nowhere/authority.crt", "sslrootcert='/nowhere/authority.crt'"),
        ("sslcert=/nowhere/client.crt", "sslcert='/nowhere/client.crt'"),
        ("sslkey=/nowhere/client.key", "sslkey='/nowhere/client.key'"),
        ("ssl=true", "write sslmode=require"),
        ("channel_binding=yes", "channel_binding='yes'"),
    ],
)
def test_a_wrong_option_is_wrong_use(option: str, named: str) -> None:
    assert named in refused(f"postgresql://me:hunter2@127.0.0.1:1/chat?{option}", 2)
