"""The flags of the embedded server, named as those of tensorflow_model_server."""

import argparse

from serving import cli


def parse(doc: str) -> argparse.Namespace:
    """Reads the command line of the server; raises UserError for wrong flags.

    Args:
        doc: what the help text says before the flags.
    """
    parser = cli.Parser("python -m serving.server", doc)
    add = parser.add_argument
    whole, millis = cli.number(int, 0), cli.number(int, 1)
    add("--model_name", metavar="NAME", default="default", help="the name that requests give")
    add(
        "--model_base_path",
        metavar="PATH",
        default="",
        help="the folder that holds the numbered versions",
    )
    add(
        "--model_config_file",
        metavar="FILE",
        default="",
        help="a ModelServerConfig, which lists several models, in place of the two above",
    )
    add(
        "--model_config_file_poll_wait_seconds",
        type=whole,
        metavar="S",
        default=0,
        help="how often to read that file again; 0 never",
    )
    add(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="the address to listen at; 0.0.0.0 for all",
    )
    add(
        "--port",
        type=cli.number(int, 0, 65535),
        metavar="N",
        default=8500,
        help="the port for gRPC; 0 takes a free one",
    )
    add(
        "--rest_api_port",
        type=cli.number(int, -1, 65535),
        metavar="N",
        default=0,
        help="the port for REST and metrics; 0 for none, -1 takes a free one",
    )
    add(
        "--rest_api_timeout_in_ms",
        type=millis,
        metavar="MS",
        default=30_000,
        help="how long a REST request may take",
    )
    add(
        "--enable_batching",
        type=cli.boolean,
        metavar="BOOL",
        default=True,
        help="whether requests are joined into batches",
    )
    add(
        "--batching_parameters_file",
        metavar="FILE",
        default="",
        help="BatchingParameters; empty for what suits a CPU",
    )
    add(
        "--monitoring_config_file",
        metavar="FILE",
        default="",
        help="a MonitoringConfig, which says where metrics are shown",
    )
    add(
        "--ssl_config_file",
        metavar="FILE",
        default="",
        help="an SSLConfig; empty serves without encryption",
    )
    add(
        "--enable_model_warmup",
        type=cli.boolean,
        metavar="BOOL",
        default=True,
        help="whether a version answers its own requests before it is served",
    )
    add(
        "--allow_version_labels_for_unavailable_models",
        type=cli.boolean,
        metavar="BOOL",
        default=False,
        help="whether the server starts where a label's version cannot be served",
    )
    add(
        "--grpc_max_threads",
        type=cli.number(int, 1),
        metavar="N",
        default=4 * cli.cores(),
        help="how many requests run at the same time without batching",
    )
    add(
        "--grpc_max_receive_message_mb",
        type=cli.number(int, 1, 2047),
        metavar="N",
        default=64,
        help="the largest request, in MiB",
    )
    add(
        "--file_system_poll_wait_seconds",
        type=cli.number(float, 0),
        metavar="S",
        default=1.0,
        help="how often to look for a new version; 0 never",
    )
    return parser.parse_args()
