import Observation

/// All that the app shows.
@MainActor
@Observable
public final class DemoModel {
    public let license: LicenseModel
    public let gallery: GalleryModel
    public let comparison: ComparisonModel
    public let paywall: PaywallModel
    public var isPaywallShown = false

    private let cache: ClassifierCache

    public init(
        locker: any Locker, store: any Storefront, catalog: Catalog, loader: any ClassifierLoader, pictures: LabelledSet
    ) {
        let license = LicenseModel(locker)
        let cache = ClassifierCache(loader)
        (self.license, self.cache) = (license, cache)
        gallery = GalleryModel(samples: pictures.samples, loader: cache, license: license)
        comparison = ComparisonModel(pictures: pictures.images, loader: cache, license: license)
        paywall = PaywallModel(store: store, catalog: catalog, license: license)
    }

    /// Follows the license until the task is cancelled.
    public func run() async {
        await license.follow { [cache, comparison] in
            await cache.dropUnlocked()
            comparison.licenseChanged()
        }
    }

    /// What the button beside a state does.
    public func perform(_ action: StateDescription.Action) async {
        switch action {
        case .buy: isPaywallShown = true
        case .renew: await license.renew()
        case .restore: await paywall.restore()
        }
    }
}
