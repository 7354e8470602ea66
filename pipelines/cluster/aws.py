"""Start nodes on AWS at spot prices, or on demand where AWS has no spot instances: the provider of cluster.yaml.

    provider: {type: external, module: pipelines.cluster.aws.SpotFirst, region: us-west-2}

Ray's autoscaler cannot do this: with one node type for spot instances and one on demand, it asks for the first type for
ever if AWS has none (seen in both versions of the autoscaler of Ray 2.60, with a provider that refuses one type).
"""

import logging
from typing import Any

from ray.autoscaler.node_launch_exception import NodeLaunchException

from pipelines.cluster.ray_internals import aws_node_provider

__all__ = ["SpotFirst"]

log = logging.getLogger(__name__)


class SpotFirst(aws_node_provider()):  # type: ignore[misc]
    """Ray's provider for AWS, except that spot instances which AWS refuses are launched on demand at once."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Launches up to `count` instances; if node_config has InstanceMarketOptions and AWS refuses, on demand.

        Raises:
            NodeLaunchException: AWS refuses them on demand too, in every zone.
        """
        try:
            return super().create_node(node_config, tags, count)
        except NodeLaunchException as error:
            if "InstanceMarketOptions" not in node_config:
                raise
            log.warning("no spot instances (%s): %d on demand instead", error.category, count)
            on_demand = {name: value for name, value in node_config.items() if name != "InstanceMarketOptions"}
            return super().create_node(on_demand, tags, count)
