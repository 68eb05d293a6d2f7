"""manifests/attach: our profile beside the stock one in one real kube-scheduler, plain and through mutual TLS."""

import datetime as dt
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nodewise import __version__
from nodewise_simulator.controlplane import ControlPlane, ToyExtender, node, pod, scheduler_config, winner_only

from .conftest import ROOT, Json, Render

ATTACH = ROOT / "manifests" / "attach"
CONFIGS = ("scheduler.yaml", "scheduler-mtls.yaml")


def config(name: str) -> Json:
    made: Json = yaml.safe_load((ATTACH / name).read_text())
    return made


def runnable(name: str, plane: ControlPlane) -> Json:
    """The file with the one thing that cannot be the same here: the way to the API server."""
    made = config(name)
    made["clientConnection"]["kubeconfig"] = str(plane.kubeconfig)
    return made


def wants_the_last(body: Json) -> list[Json]:
    """Like our extender: an opinion on pods of our scheduler only."""
    if body["Pod"]["spec"]["schedulerName"] != "nodewise":
        return []
    return winner_only(lambda _pod, names: max(names))(body)


@pytest.fixture
def nodes(plane: ControlPlane) -> Iterator[None]:
    """Three; without an opinion the two that are empty rank before the last one, which is half full."""
    plane.create_nodes([node(f"n{k}", cpu_milli=4000, memory_bytes=2**33) for k in range(3)])
    resident = pod("resident", namespace="kube-public", cpu_milli=2000, memory_bytes=2**31)
    resident["spec"]["nodeName"] = "n2"
    plane.create_pods([resident])
    yield
    for namespace in {each["metadata"]["namespace"] for each in plane.list_pods()}:
        plane.delete_pods(namespace)
    plane.delete_nodes()


@pytest.mark.parametrize("name", CONFIGS)
def test_our_profile_and_extender_are_those_of_the_second_scheduler(name: str) -> None:
    ours = scheduler_config("", "http://127.0.0.1:8888")
    default, profile = config(name)["profiles"]
    assert default == {"schedulerName": "default-scheduler"}
    assert [profile] == ours["profiles"]
    (extender,), (theirs,) = config(name)["extenders"], ours["extenders"]
    assert {key: extender[key] for key in theirs if key != "urlPrefix"} == {
        key: value for key, value in theirs.items() if key != "urlPrefix"
    }
    if name == "scheduler.yaml":
        assert extender["urlPrefix"] == theirs["urlPrefix"]


def test_one_scheduler_places_ours_by_the_extender_and_others_as_before(plane: ControlPlane, nodes: None) -> None:
    with ToyExtender(wants_the_last) as extender:
        made = runnable("scheduler.yaml", plane)
        made["extenders"][0]["urlPrefix"] = extender.url
        scheduler = plane.start_scheduler(made)
        try:
            for k in range(5):
                plane.create_pods([pod(f"ours-{k}", cpu_milli=100, memory_bytes=2**20)])
                other = pod(f"other-{k}", cpu_milli=100, memory_bytes=2**20, scheduler_name="default-scheduler")
                plane.create_pods([other])
            bound = plane.wait_bound(10)
        finally:
            scheduler.stop()
    assert {bound[f"ours-{k}"] for k in range(5)} == {"n2"}
    assert {bound[f"other-{k}"] for k in range(5)} <= {"n0", "n1"}
    assert len(extender.bodies) == 10  # asked about the others too: extenders are of the process, not of a profile


def test_a_caller_with_a_certificate_is_answered_and_the_proxy_turns_others_away(
    plane: ControlPlane, nodes: None, tmp_path: Path
) -> None:
    made = runnable("scheduler-mtls.yaml", plane)
    (extender,) = made["extenders"]
    ca, server, client = certificates(tmp_path, extender["tlsConfig"]["serverName"])
    extender["tlsConfig"] |= {"caFile": str(ca), "certFile": str(client), "keyFile": str(client.with_suffix(".key"))}
    with proxy(server, ca) as (port, callers):
        extender["urlPrefix"] = f"https://127.0.0.1:{port}"
        scheduler = plane.start_scheduler(made)
        try:
            plane.create_pods([pod("p", cpu_milli=100, memory_bytes=2**20)])
            assert plane.wait_bound(1)["p"] == "n2"
        finally:
            scheduler.stop()
        assert callers == ["kube-scheduler"]

        unknown = runnable("scheduler-mtls.yaml", plane)
        unknown["extenders"][0] |= {"urlPrefix": extender["urlPrefix"]}
        unknown["extenders"][0]["tlsConfig"] = {
            "caFile": str(ca), "serverName": extender["tlsConfig"]["serverName"],
        }  # fmt: skip
        scheduler = plane.start_scheduler(unknown)
        try:
            plane.create_pods([pod("q", cpu_milli=100, memory_bytes=2**20)])
            assert plane.wait_bound(2)["q"] in {"n0", "n1"}  # ignorable: placed all the same
        finally:
            scheduler.stop()
        assert callers == ["kube-scheduler"]


def test_a_missing_certificate_keeps_kube_scheduler_from_starting(plane: ControlPlane) -> None:
    with pytest.raises(RuntimeError, match=r"tls/(ca|tls)\.(crt|key): no such file"):
        plane.start_scheduler(runnable("scheduler-mtls.yaml", plane))


def test_both_versions_of_kubeadm_say_the_same_and_kind_gets_both() -> None:
    old, new = (config(f"kubeadm-{version}.yaml") for version in ("v1beta3", "v1beta4"))
    patches = list(map(yaml.safe_load, config("kind.yaml")["kubeadmConfigPatches"]))
    assert patches == [old, new]
    assert (old["apiVersion"], new["apiVersion"]) == ("kubeadm.k8s.io/v1beta3", "kubeadm.k8s.io/v1beta4")
    assert {each["name"]: each["value"] for each in new["scheduler"]["extraArgs"]} == old["scheduler"]["extraArgs"]
    assert new["scheduler"]["extraVolumes"] == old["scheduler"]["extraVolumes"]
    (volume,) = old["scheduler"]["extraVolumes"]
    folder, _, file = old["scheduler"]["extraArgs"]["config"].rpartition("/")
    assert (volume["hostPath"], volume["mountPath"]) == (folder, folder)
    assert (ATTACH / file).exists()
    (mount,) = config("kind.yaml")["nodes"][0]["extraMounts"]
    assert (ROOT / mount["hostPath"], mount["containerPath"]) == (ATTACH, folder)


def test_the_api_server_takes_the_extender_of_the_control_plane(plane: ControlPlane) -> None:
    rbac, inside = "apis/rbac.authorization.k8s.io/v1", "namespaces/kube-system"
    where = {
        "ServiceAccount": f"api/v1/{inside}/serviceaccounts",
        "ClusterRole": f"{rbac}/clusterroles",
        "ClusterRoleBinding": f"{rbac}/clusterrolebindings",
        "DaemonSet": f"apis/apps/v1/{inside}/daemonsets",
    }
    for each in yaml.safe_load_all((ATTACH / "extender.yaml").read_text()):
        plane.call("POST", f"/{where[each['kind']]}?dryRun=All&fieldValidation=Strict", each)
        if each["kind"] == "DaemonSet":
            (container,) = each["spec"]["template"]["spec"]["containers"]
            assert container["image"] == f"ghcr.io/nodewise/nodewise-extender:{__version__}"


def test_what_is_attached_and_the_chart_can_be_there_together(render: Render) -> None:
    of_all = {"ClusterRole", "ClusterRoleBinding"}
    attached = [each for each in yaml.safe_load_all((ATTACH / "extender.yaml").read_text()) if each["kind"] in of_all]
    charts = {each["metadata"]["name"] for each in render({"scheduling": {"enabled": True}}) if each["kind"] in of_all}
    assert len(attached) == 2
    assert not {each["metadata"]["name"] for each in attached} & charts


@contextmanager
def proxy(server: Path, ca: Path) -> Iterator[tuple[int, list[str]]]:
    """(port, common names of callers) of what ends mutual TLS and then answers like an extender."""
    callers: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            certificate: Json = dict(self.connection.getpeercert() or {})
            callers.append(dict(pair for part in certificate["subject"] for pair in part)["commonName"])
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = json.dumps(wants_the_last(asked)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server, server.with_suffix(".key"))
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True)
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield listening.server_address[1], callers
        finally:
            listening.shutdown()


def certificates(folder: Path, server_name: str) -> tuple[Path, Path, Path]:
    """Files of a CA, of the server and of kube-scheduler; each key lies beside its certificate."""
    now = dt.datetime.now(dt.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    made: list[Path] = []
    for name in ("ca", server_name, "kube-scheduler"):
        key = ca_key if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
        )
        if name == server_name:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        file = folder / f"{len(made)}.crt"
        file.write_bytes(builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        file.with_suffix(".key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        made.append(file)
    ca, server, client = made
    return ca, server, client
