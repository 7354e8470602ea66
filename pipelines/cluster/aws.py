"""Nodes on AWS at spot prices where there are some, on demand where there are none: the provider of cluster.yaml.

    provider: {type: external, module: pipelines.cluster.aws.SpotFirst, region: us-west-2}

Ray's autoscaler has no such thing: with one node type for spot instances and one on demand, it asks for the first for
ever when AWS has none (Ray 2.60: so seen of both versions of the autoscaler, with a provider that refuses one type).
"""

import logging
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

__all__ = ["SpotFirst"]


log = logging.getLogger(__name__)


class SpotFirst(AWSNodeProvider):
    """Ray's own provider for AWS, except that a refused spot instance is asked for on demand, at once."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Launches up to `count` instances; those whose node_config has InstanceMarketOptions on demand, if need be.

        Raises:
            NodeLaunchException: AWS refuses those on demand too, in every zone.
        """
        try:
            return super().create_node(node_config, tags, count)
        except NodeLaunchException as error:
            if "InstanceMarketOptions" not in node_config:
                raise
            log.warning("no spot instances (%s): %d on demand instead", error.category, count)
            on_demand = {name: value for name, value in node_config.items() if name != "InstanceMarketOptions"}
            return super().create_node(on_demand, tags, count)
